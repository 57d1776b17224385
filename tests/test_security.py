"""Tokens, TLS and mutual TLS: who is refused, on every method but health; what changes on a reload."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.errors import TokenError
from services.security import SecurityError, Tokens, is_loopback, warn_of_openness
from services.settings import ServerSettings
from tests.running_server import Running, failure, jpeg, reason, running

GOOD, OTHER = "a-good-token-0123456789", "another-token-9876543210"
SERVING = health_pb2.HealthCheckResponse.SERVING
REFUSED = grpc.StatusCode.UNAUTHENTICATED
PATH = "/captioner.v1.CaptionService"


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


def tokens_file(folder: Path, text: str = f"# callers\n\nalice {GOOD}\n{OTHER}\n", mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


# The file of tokens


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_a_token_has_the_name_before_it_or_its_line(tmp_path: Path) -> None:
    tokens = Tokens(tokens_file(tmp_path))
    assert len(tokens) == 2
    assert tokens.check(bearer(GOOD)) == "alice"
    assert tokens.check((("authorization", f"bearer   {OTHER} "),)) == "line 4"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", ""),), "TOKEN_MISSING"),
        ((("authorization", "Bearer"),), "TOKEN_MISSING"),
        ((("authorization", "Bearer  "),), "TOKEN_MISSING"),
        ((("authorization", f"Basic {GOOD}"),), "TOKEN_MISSING"),
        ((("authorization", GOOD),), "TOKEN_MISSING"),
        (bearer("wrong"), "TOKEN_INVALID"),
        (bearer(GOOD[:-1]), "TOKEN_INVALID"),
        (bearer(GOOD + "x"), "TOKEN_INVALID"),
        (bearer(GOOD.upper()), "TOKEN_INVALID"),
        (bearer("alice"), "TOKEN_INVALID"),
        (bearer(f"alice {GOOD}"), "TOKEN_INVALID"),
        (bearer("x" * 100_000), "TOKEN_INVALID"),
        ((*bearer(GOOD), *bearer(GOOD)), "TOKEN_INVALID"),
    ],
)
def test_tokens_that_are_refused(tmp_path: Path, metadata: Any, expected: str) -> None:
    with pytest.raises(TokenError) as caught:
        Tokens(tokens_file(tmp_path)).check(metadata)
    assert caught.value.reason == expected
    assert GOOD not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no token in it"),
        ("# only\n", "there is no token in it"),
        ("short\n", r"line 1: a token's length must be in \[16, 512\], got 5"),
        ("a b c\n", "line 1 must be TOKEN or NAME TOKEN, it has 3 words"),
        ("tökens-are-ascii-only\n", "may hold ASCII only"),
    ],
)
def test_files_of_tokens_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SecurityError, match=message):
        Tokens(tokens_file(tmp_path, text))


def test_no_file_of_tokens(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="cannot be read"):
        Tokens(tmp_path / "none")


def test_reload_takes_new_tokens_and_keeps_the_old_ones_if_there_are_none(tmp_path: Path) -> None:
    path = tokens_file(tmp_path)
    tokens = Tokens(path)
    path.write_text("bob a-new-token-of-bob-1\n")
    tokens.reload()
    assert tokens.check(bearer("a-new-token-of-bob-1")) == "bob"
    with pytest.raises(TokenError):
        tokens.check(bearer(GOOD))
    path.write_text("")
    with pytest.raises(SecurityError):
        tokens.reload()
    assert tokens.check(bearer("a-new-token-of-bob-1")) == "bob"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_read_is_warned_of(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Tokens(tokens_file(tmp_path, mode=mode))
    assert ("others may read it" in caplog.text) == warned
    assert GOOD not in caplog.text


# Addresses


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("127.8.8.8", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_what_other_machines_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_openness_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_openness(ServerSettings())
    assert not caplog.records
    warn_of_openness(ServerSettings(host="0.0.0.0"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "TLS" in caplog.text
    assert "anyone may call" in caplog.text


# A server that asks for tokens


def every_method(channel: grpc.Channel, metadata: Any) -> dict[str, Any]:
    """A call of each method but health."""
    stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    image = jpeg()
    caption = pb.CaptionImageRequest(image=image)
    pictures = [pb.StreamCaptionImagesRequest(id="1", request=caption)]
    listing = [reflection_pb2.ServerReflectionRequest(list_services="")]
    more: Any = {"timeout": 10, "metadata": metadata}
    return {
        "CaptionImage": lambda: stub.CaptionImage(caption, **more),
        "AnswerQuestion": lambda: stub.AnswerQuestion(pb.AnswerQuestionRequest(image=image, question="what"), **more),
        "StreamCaptionImages": lambda: list(stub.StreamCaptionImages(iter(pictures), **more)),
        "DrawAttention": lambda: stub.DrawAttention(pb.DrawAttentionRequest(image=image), **more),
        "GetModel": lambda: stub.GetModel(pb.GetModelRequest(), **more),
        "ListModels": lambda: stub.ListModels(pb.ListModelsRequest(), **more),
        "ServerReflectionInfo": lambda: list(reflection.ServerReflectionInfo(iter(listing), **more)),
    }


METHODS = [
    *(method.name for method in pb.DESCRIPTOR.services_by_name["CaptionService"].methods),
    "ServerReflectionInfo",
]


@pytest.fixture(scope="module")
def guarded(captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(captioner, tokens_file=tokens_file(tmp_path_factory.mktemp("tokens"))) as server:
        yield server


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("metadata", "expected"),
    [((), "TOKEN_MISSING"), (bearer("a-wrong-token-012345"), "TOKEN_INVALID")],
    ids=["no token", "wrong token"],
)
def test_every_method_asks_for_the_token(guarded: Running, method: str, metadata: Any, expected: str) -> None:
    with grpc.insecure_channel(guarded.target) as channel:
        code, details = failure(every_method(channel, metadata)[method])
    assert (code, reason(details)) == (REFUSED, expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_token(guarded: Running, method: str) -> None:
    with grpc.insecure_channel(guarded.target) as channel:
        call = every_method(channel, bearer(GOOD))[method]
        if method == "AnswerQuestion":
            assert reason(failure(call)[1]) == "ANSWERS_UNAVAILABLE"
        else:
            assert call()


def health(channel: grpc.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status)


def test_health_asks_for_no_token(guarded: Running) -> None:
    with grpc.insecure_channel(guarded.target) as channel:
        assert health(channel) == SERVING


def test_a_stranger_s_message_is_not_read(guarded: Running) -> None:
    huge = pb.CaptionImageRequest(image=bytes(40 * 2**20))  # the limit on messages would answer RESOURCE_EXHAUSTED
    with grpc.insecure_channel(guarded.target, [("grpc.max_send_message_length", -1)]) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        code, details = failure(lambda: stub.CaptionImage(huge, timeout=10))
    assert (code, reason(details)) == (REFUSED, "TOKEN_MISSING")


OVER_HTTP = [method for method in METHODS if method not in ("StreamCaptionImages", "ServerReflectionInfo")]


@pytest.mark.parametrize("method", OVER_HTTP)
def test_every_method_over_http_asks_for_the_token(with_pages: Running, method: str) -> None:
    for token, code in ((None, 401), ("a-wrong-token-012345", 401), (GOOD, 400)):  # 400: no message
        connection = HTTPConnection("127.0.0.1", with_pages.server.web_port, timeout=10)
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        connection.request("POST", f"{PATH}/{method}", "?", {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        assert answer.status == code
        assert json.loads(answer.read())["code"] == ("unauthenticated" if code == 401 else "invalid_argument")
        connection.close()


@pytest.fixture(scope="module")
def with_pages(captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("connectrpc", reason="connectrpc is not installed")
    with running(captioner, tokens_file=tokens_file(tmp_path_factory.mktemp("tokens")), web_port=0) as server:
        yield server


def test_tokens_change_on_reload(captioner: Captioner, tmp_path: Path) -> None:
    path = tokens_file(tmp_path)
    with running(captioner, tokens_file=path) as server, grpc.insecure_channel(server.target) as channel:
        path.write_text(f"carol {OTHER}\n")
        assert server.run(server.server.reload())
        code, details = failure(every_method(channel, bearer(GOOD))["GetModel"])
        assert (code, reason(details)) == (REFUSED, "TOKEN_INVALID")
        assert every_method(channel, bearer(OTHER))["GetModel"]()
        path.write_text("")
        assert not server.run(server.server.reload())
        assert every_method(channel, bearer(OTHER))["GetModel"]()


# TLS

crypto = pytest.importorskip("cryptography.x509")


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.key = self._key()
        self.certificate = self._sign(self.key.public_key(), name, self.key, authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._pem(self.certificate))

    def issue(self, name: str, days: tuple[int, int] = (-1, 1)) -> tuple[Path, Path]:
        """The files of a certificate, valid from and until these days from now, and of its key."""
        from cryptography.hazmat.primitives import serialization

        key = self._key()
        certificate = self._sign(key.public_key(), name, self.key, days=days)
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(self._pem(certificate))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return paths

    def _sign(self, public: Any, name: str, key: Any, authority: bool = False, days: tuple[int, int] = (-1, 1)) -> Any:
        from cryptography.hazmat.primitives import hashes

        now = datetime.now(UTC)

        def named(common: str) -> Any:
            return crypto.Name([crypto.NameAttribute(crypto.NameOID.COMMON_NAME, common)])

        addresses = [crypto.DNSName("localhost"), crypto.IPAddress(ip_address("127.0.0.1"))]
        builder = crypto.CertificateBuilder(named(self.name), named(name), public, crypto.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=days[0])).not_valid_after(now + timedelta(days=days[1]))
        builder = builder.add_extension(crypto.BasicConstraints(authority, None), critical=True)
        return builder.add_extension(crypto.SubjectAlternativeName(addresses), critical=False).sign(
            key, hashes.SHA256()
        )

    @staticmethod
    def _key() -> Any:
        from cryptography.hazmat.primitives.asymmetric import ec

        return ec.generate_private_key(ec.SECP256R1())

    @staticmethod
    def _pem(certificate: Any) -> bytes:
        from cryptography.hazmat.primitives import serialization

        return bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def opened(server: Running, root: Path, client: tuple[Path, Path] | None = None) -> grpc.Channel:
    certificate, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.secure_channel(server.target, grpc.ssl_channel_credentials(root.read_bytes(), key, certificate))


def get_model(channel: grpc.Channel) -> Any:
    stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
    return stub.GetModel(pb.GetModelRequest(), timeout=5)


def test_tls(captioner: Captioner, authority: Authority, stranger: Authority) -> None:
    certificate, key = authority.issue("server")
    with running(captioner, tls_certificate=certificate, tls_key=key) as server:
        with opened(server, authority.path) as channel:
            assert get_model(channel).model.name
        for wrong in (opened(server, stranger.path), grpc.insecure_channel(server.target)):
            with wrong as channel:
                assert failure(lambda channel=channel: get_model(channel))[0] == grpc.StatusCode.UNAVAILABLE


def test_a_server_s_expired_certificate_is_refused_and_a_reload_replaces_it(
    captioner: Captioner, authority: Authority
) -> None:
    certificate, key = authority.issue("renewed", days=(-3, -1))
    with running(captioner, tls_certificate=certificate, tls_key=key) as server:
        with opened(server, authority.path) as channel:
            assert failure(lambda: get_model(channel))[0] == grpc.StatusCode.UNAVAILABLE
        authority.issue("renewed")
        assert server.run(server.server.reload())
        with opened(server, authority.path) as channel:
            assert get_model(channel).model.name
        certificate.write_text("nonsense")
        assert not server.run(server.server.reload())
        with opened(server, authority.path) as channel:
            assert get_model(channel).model.name


def test_mutual_tls(captioner: Captioner, authority: Authority, stranger: Authority) -> None:
    certificate, key = authority.issue("server")
    with running(captioner, tls_certificate=certificate, tls_key=key, client_ca=authority.path) as server:
        with opened(server, authority.path, authority.issue("client")) as channel:
            assert get_model(channel).model.name
        clients = (None, authority.issue("late", days=(-3, -1)), stranger.issue("client"))
        for client in clients:
            with opened(server, authority.path, client) as channel:
                assert failure(lambda channel=channel: get_model(channel))[0] == grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_opens_no_method(captioner: Captioner, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    late = authority.issue("late", days=(-3, -1))
    with running(captioner, tls_certificate=certificate, tls_key=key, client_ca=authority.path) as server:
        for method in METHODS:
            with opened(server, authority.path, late) as channel:
                assert failure(every_method(channel, ())[method])[0] == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("whose", ["client", "server"])
def test_an_expired_certificate_over_http(captioner: Captioner, authority: Authority, whose: str) -> None:
    pytest.importorskip("connectrpc", reason="connectrpc is not installed")
    past, now = (-3, -1), (-1, 1)
    certificate, key = authority.issue("server", past if whose == "server" else now)
    client, client_key = authority.issue("client", past if whose == "client" else now)
    trust = ssl.create_default_context(cafile=str(authority.path))
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    trust.load_cert_chain(client, client_key)
    settings: Any = {"tls_certificate": certificate, "tls_key": key, "client_ca": authority.path, "web_port": 0}
    with running(captioner, **settings) as server:

        def page() -> int:
            connection = HTTPSConnection("127.0.0.1", server.server.web_port, timeout=10, context=trust)
            connection.request("POST", f"{PATH}/ListModels", "{}", {"content-type": "application/json"})
            return connection.getresponse().status

        with pytest.raises((ssl.SSLError, ConnectionError)):  # by TLS 1.3 a server refuses after the handshake
            page()
        renewed = authority.issue(whose)
        if whose == "client":
            trust.load_cert_chain(*renewed)
        else:
            assert server.run(server.server.reload())
        assert page() == 200


def test_tls_files_that_cannot_be_used(captioner: Captioner, authority: Authority, stranger: Authority) -> None:
    certificate, _ = authority.issue("server")
    _, key = stranger.issue("server")
    with (
        pytest.raises(SecurityError, match="cannot be used"),
        running(captioner, tls_certificate=certificate, tls_key=key),
    ):
        pass
    with pytest.raises(ValueError, match="tls_certificate and tls_key go together"):
        ServerSettings(tls_certificate=certificate)
