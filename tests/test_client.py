"""The client against a real server, and against servers that fail."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.client import Client, ClientError, Tls
from captioner.client_calls import MESSAGE_BYTES
from captioner.images import ImageLimits
from captioner.query import QUESTION_LIMITS
from captioner.results import Answer, Caption
from tests.fake_server import BROKEN, FULL, UNAVAILABLE, Planned, listening
from tests.running_server import Held, Running, jpeg, running


@pytest.fixture(scope="module")
def captioner(tiny_bundle_answers: Path) -> Captioner:
    return Captioner.load(tiny_bundle_answers, "fp32", threads=1)  # int8 varies a little with the batch


@pytest.fixture(scope="module")
def server(captioner: Captioner) -> Iterator[Running]:
    with running(captioner) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.target) as opened:
        yield opened


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_captions_equal_those_of_the_library(client: Client, captioner: Captioner, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    got = client.caption(path, beam_size=4, max_words=5, captions=2, length_power=0.7, attention=True)
    wanted = captioner.caption(path, beam_size=4, max_words=5, captions=2, length_power=0.7)
    assert [caption.text for caption in got] == [caption.text for caption in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        for mine, other in zip(ours.words, theirs.words, strict=True):
            assert mine.text == other.text
            assert mine.attention is not None
            assert other.attention is not None
            np.testing.assert_allclose(mine.attention, other.attention, atol=1e-4)


def test_answers_equal_those_of_the_library(client: Client, captioner: Captioner) -> None:
    question = "what colour is the zorbing dog?"
    got = client.answer(jpeg(), question, top=3, candidates=["red", "blue", "a zeppelin"], attention=True)
    wanted = captioner.answer(jpeg(), question, top=3, candidates=["red", "blue", "a zeppelin"])
    assert [answer.text for answer in got.answers] == [answer.text for answer in wanted.answers]
    np.testing.assert_allclose(
        [answer.probability for answer in got.answers], [answer.probability for answer in wanted.answers], atol=1e-4
    )
    assert got.unknown_words == wanted.unknown_words == ("zorbing",)
    assert got.unknown_candidates == wanted.unknown_candidates == ("a zeppelin",)
    assert got.attention is not None
    assert wanted.attention is not None
    np.testing.assert_allclose(got.attention, wanted.attention, atol=1e-4)


def test_attention_only_on_request(client: Client) -> None:
    assert all(word.attention is None for caption in client.caption(jpeg()) for word in caption.words)
    assert client.answer(jpeg(), "is it red?").attention is None


def test_figures_are_of_the_caption_or_the_answer(client: Client) -> None:
    captioned = client.draw_attention(jpeg(), beam_size=2)
    answered = client.draw_attention(jpeg(), question="what is it?")
    assert isinstance(captioned.subject, Caption)
    assert captioned.subject.text == client.caption(jpeg(), beam_size=2)[0].text
    assert isinstance(answered.subject, Answer)
    for figure in (captioned, answered):
        with Image.open(BytesIO(figure.png)) as picture:
            assert picture.format == "PNG"


def test_a_reply_says_what_made_it(client: Client, captioner: Captioner) -> None:
    served = client.caption(jpeg(), request_id="mine-1.a_b").served
    assert (served.model, served.model_version) == (captioner.bundle.name, captioner.bundle.version)
    assert served.request_id == "mine-1.a_b"
    assert served.durations.search > 0
    assert served.durations.queue >= 0
    assert client.answer(jpeg(), "is it?").served.request_id != client.answer(jpeg(), "is it?").served.request_id


def test_model(client: Client, captioner: Captioner) -> None:
    model = client.model()
    assert (model.name, model.version) == (captioner.bundle.name, captioner.bundle.version)
    assert model.has_attention
    assert model.search_defaults.beam_size == captioner.bundle.search.beam_size
    assert model.search_maxima.beam_size == 20
    assert model.image_limits == ImageLimits()
    assert (model.answers_questions, model.answer_count) == (True, len(captioner.bundle.answers))
    assert (model.has_answer_attention, model.accepts_history) == (True, False)
    assert model.question_limits == QUESTION_LIMITS
    assert client.models() == [model]


def test_error_has_code_reason_and_fields(client: Client) -> None:
    with pytest.raises(ClientError, match=r"INVALID_ARGUMENT \(OPTION_OUT_OF_RANGE\)") as caught:
        client.caption(jpeg(), beam_size=21, request_id="abc")
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE")
    assert "[1, 20]" in error.violations["beam_size"]
    assert error.retry_after is None
    assert error.request_id == "abc"


def test_errors_survive_pickling(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.answer(jpeg(), "")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert vars(copy) == vars(caught.value)
    assert copy.reason == "EMPTY_QUESTION"


def test_what_the_model_cannot_do(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.answer(jpeg(), "is it red?", history=[("is it a dog?", "yes")])
    assert caught.value.reason == "HISTORY_UNAVAILABLE"
    with pytest.raises(ClientError) as caught:
        client.model("another")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_a_bad_argument_is_told_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(TypeError, match="no option is called beams"):
        client.caption(jpeg(), beams=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="request_id must be 1 to 64 letters"):
        client.caption(jpeg(), request_id="two words")
    with pytest.raises(ValueError, match="timeout must be above 0 seconds, got -1"):
        client.model(timeout=-1)
    with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
        client.caption_many([jpeg()], 0)
    with pytest.raises(OSError, match="No such file"):
        client.caption("nowhere.jpg")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": ""}, "the target is empty"),
        ({"target": "127.0.0.1:1,two"}, "each of several targets must be HOST:PORT, got 'two'"),
        ({"target": "a:1", "timeout": 0.0}, "timeout must be above 0"),
        ({"target": "a:1", "token": "a secret"}, "printable ASCII without spaces"),
    ],
)
def test_a_connection_that_cannot_be_meant(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Client(**arguments)
    assert "secret" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    with Client("a:1", token="open-sesame", tls=None) as client:
        assert "sesame" not in repr(client.connection)
    assert "sesame" not in repr(Tls(certificate=b"c", key=b"open-sesame"))
    with pytest.raises(ValueError, match="certificate and key go together"):
        Tls(certificate=b"c")


def test_largest_picture_reaches_the_server_and_a_larger_one_does_not(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.caption(bytes(ImageLimits().max_bytes + 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE_BYTES"
    with pytest.raises(ClientError) as caught:
        client.caption(bytes(MESSAGE_BYTES + 1))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


def test_full_queue_says_when_to_come_back(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held, max_queue=1) as server, Client(server.target) as client, ThreadPoolExecutor(1) as pool:
        held.hold()
        first = pool.submit(client.caption, jpeg())
        assert held.entered.wait(10)
        with pytest.raises(ClientError) as caught:
            client.caption(jpeg())
        held.let_go()
        assert first.result()
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0


def test_every_call_has_a_deadline(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held) as server, Client(server.target, timeout=0.3) as client:
        held.hold()
        with pytest.raises(ClientError) as caught:
            client.caption(jpeg())
        held.let_go()
        assert client.caption(jpeg(), timeout=10)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_no_server(closed_port: int) -> None:
    with Client(f"127.0.0.1:{closed_port}", timeout=5) as client, pytest.raises(ClientError) as caught:
        client.model(request_id="abc")
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert (caught.value.reason, caught.value.request_id) == ("", "abc")


def test_unavailable_is_tried_again_with_a_whole_photo() -> None:
    planned = Planned(UNAVAILABLE, UNAVAILABLE)
    with listening(planned) as target, Client(target) as client:
        [caption] = client.caption(bytes(3 * 2**20))
    assert caption.text == str(3 * 2**20)
    assert planned.calls == 3
    assert len({metadata["x-request-id"] for metadata in planned.metadata}) == 1


def test_a_server_that_still_loads_is_tried_again(captioner: Captioner) -> None:
    with (
        running(captioner, warm=False) as server,
        Client(server.target) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with pytest.raises(ClientError, match="LOADING"):
            client.caption(jpeg())
        server.run(server.server.warm_up())
        assert pool.submit(client.caption, jpeg()).result()


@pytest.mark.parametrize("failure", [FULL, BROKEN])
def test_nothing_else_is_tried_again(failure) -> None:
    planned = Planned(failure, failure)
    with listening(planned) as target, Client(target) as client, pytest.raises(ClientError) as caught:
        client.caption(b"photo")
    assert planned.calls == 1
    assert caught.value.reason == failure.reason


def test_a_full_server_is_tried_again_if_asked_to() -> None:
    planned = Planned(FULL, FULL, FULL)
    begun = time.monotonic()
    with listening(planned) as target, Client(target, retry_when_full=True) as client:
        assert client.caption(b"photo")[0].text == "5"
    assert planned.calls == 4
    assert time.monotonic() - begun > 3 * FULL.retry_after


def test_a_full_server_is_not_waited_for_past_the_deadline() -> None:
    planned = Planned(*[FULL] * 100)
    with (
        listening(planned) as target,
        Client(target, timeout=0.5, retry_when_full=True) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.caption(b"photo")
    assert caught.value.reason in ("QUEUE_FULL", "")
    assert 2 <= planned.calls <= 11  # at least 0.05 s apart


def test_several_servers_take_turns() -> None:
    one, two = Planned(), Planned()
    with listening(one) as first, listening(two) as second, Client(f"{first}, {second}") as client:
        client.caption(b"photo")
        until = time.monotonic() + 10
        while not (one.calls and two.calls) and time.monotonic() < until:  # the second connects a little later
            client.caption(b"photo")
        before = one.calls, two.calls
        for _ in range(10):
            client.caption(b"photo")
    assert (one.calls - before[0], two.calls - before[1]) == (5, 5)


def test_a_server_that_is_not_there_is_left_out(closed_port: int) -> None:
    planned = Planned()
    with listening(planned) as target, Client(f"localhost:{closed_port},{target}") as client:
        for _ in range(6):
            assert client.caption(b"photo")
    assert planned.calls == 6


def test_a_server_that_refuses_costs_no_call() -> None:
    one, two = Planned(), Planned()
    with listening(one) as first, listening(two) as second, Client(f"{first},{second}") as client:
        until = time.monotonic() + 10
        while not (one.calls and two.calls) and time.monotonic() < until:
            client.caption(b"photo")
        one.plan = [UNAVAILABLE] * 100
        for _ in range(10):
            assert client.caption(b"photo")
    assert len(one.plan) < 100


def test_the_token_goes_with_every_call() -> None:
    planned = Planned()
    with listening(planned) as target, Client(target, token="open-sesame") as client:
        client.caption(b"photo")
        list(client.caption_stream([b"photo"]))
    assert [metadata["authorization"] for metadata in planned.metadata] == ["Bearer open-sesame"] * 2


def test_a_wrong_token_is_an_error_with_a_reason(captioner: Captioner, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-long-enough-token-1\n")
    tokens.chmod(0o600)
    with running(captioner, tokens_file=tokens) as server:
        with Client(server.target, token="a-long-enough-token-1") as client:
            assert client.caption(jpeg())
        for token, reason in ((None, "TOKEN_MISSING"), ("a-long-enough-token-2", "TOKEN_INVALID")):
            with Client(server.target, token=token) as client, pytest.raises(ClientError) as caught:
                client.caption(jpeg())
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


def test_many_photos_by_place_and_by_key(client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    photos = [jpeg(), tmp_path / "bad.jpg", jpeg(shade=40), tmp_path / "none.jpg", jpeg(shade=80)]
    for many in (client.caption_many, client.caption_stream):
        for found in (dict(many(photos, 2, beam_size=2)), dict(many(dict(zip("abcde", photos, strict=True)), 3))):
            by_place = [found[key] for key in sorted(found)]
            assert [type(outcome).__name__ for outcome in by_place] == [
                "CaptionReply", "ClientError", "CaptionReply", "FileNotFoundError", "CaptionReply",
            ]  # fmt: skip
            assert by_place[1].reason == "UNSUPPORTED_FORMAT"
            assert "image" in by_place[1].violations
            assert by_place[0][0].text == client.caption(jpeg(), beam_size=2)[0].text or "a" in found
        assert list(many([])) == []


def test_at_most_so_many_photos_are_in_memory_and_in_flight() -> None:
    planned = Planned()
    taken: list[int] = []

    def photos() -> Iterator[bytes]:
        for n in range(20):
            taken.append(n)
            yield b"photo"

    with listening(planned) as target, Client(target) as client:
        planned.gate.clear()
        found = client.caption_many(photos(), 3)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, found)
            until = time.monotonic() + 10
            while planned.running < 3 and time.monotonic() < until:
                time.sleep(0.01)
            planned.gate.set()
            first.result()
        for done, _ in enumerate(found, start=2):
            assert len(taken) <= done + 3
        assert (len(taken), planned.most_running) == (20, 3)
        taken.clear()
        for done, _ in enumerate(client.caption_stream(photos(), 3), start=1):
            assert len(taken) <= done + 3
        assert len(taken) == 20


def test_results_come_as_they_finish_with_their_keys() -> None:
    with listening(Planned()) as target, Client(target) as client:
        photos = {name: name.encode() * n for n, name in enumerate("abcd")}
        found = list(client.caption_stream(photos, 2, request_id="abc"))
    assert [key for key, _ in found] == ["b", "a", "d", "c"]
    assert [str(found[n][1][0].text) for n in (0, 2, 3)] == ["1", "3", "2"]
    error = found[1][1]
    assert (error.code, error.reason, error.request_id) == (grpc.StatusCode.INTERNAL, "INTERNAL", "abc")


def test_a_call_of_many_is_tried_again_a_stream_is_not() -> None:
    planned = Planned(UNAVAILABLE, FULL)
    with listening(planned) as target, Client(target, retry_when_full=True) as client:
        assert [outcome[0].text for _, outcome in client.caption_many([b"photo"] * 3, 1)] == ["5"] * 3
        assert planned.calls == 5
        planned.plan = [BROKEN]
        with pytest.raises(ClientError, match="broken"):
            list(client.caption_stream([b"photo"] * 3))


@pytest.mark.parametrize("many", ["caption_many", "caption_stream"])
def test_whoever_leaves_early_need_not_wait(many: str) -> None:
    planned = Planned()
    with listening(planned) as target, Client(target) as client:
        found = getattr(client, many)((b"photo" for _ in range(1000)), 4)
        next(found)
        planned.gate.clear()
        begun = time.monotonic()
        found.close()
        assert time.monotonic() - begun < 5
        planned.gate.set()
        assert client.caption(b"photo")
    assert planned.calls < 20


@pytest.mark.parametrize("many", ["caption_many", "caption_stream"])
def test_an_error_of_the_callers_own_photos_reaches_the_caller(many: str) -> None:
    def photos() -> Iterator[bytes]:
        yield b"photo"
        yield b"photo"
        raise RuntimeError("the disk is on fire")

    with listening(Planned()) as target, Client(target) as client, pytest.raises(RuntimeError, match="on fire"):
        list(getattr(client, many)(photos(), 2))


def test_threads_share_a_client(client: Client) -> None:
    alone = [client.caption(jpeg(shade=shade))[0].text for shade in range(0, 160, 40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: client.caption(jpeg(shade=n % 4 * 40))[0].text, range(32)))
    assert together == alone * 8


def _certificate(name: str) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key, PEM."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificates")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return certificate.public_bytes(pem), key.private_bytes(pem, pkcs8, plain)


def test_tls_from_both_sides(tmp_path: Path) -> None:
    certificate, key = _certificate("captioner.test")
    ours, our_key = _certificate("client.test")
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate)
    mutual = grpc.ssl_server_credentials([(key, certificate)], ours, require_client_auth=True)
    planned = Planned()
    with listening(planned, mutual) as target:
        good = Tls(path, ours, our_key, server_name="captioner.test")
        for several in (target, f"{target},{target}"):
            with Client(several, tls=good) as client:
                assert client.caption(b"photo")
        no_certificate = Tls(certificate, server_name="captioner.test")
        another_name = Tls(certificate, ours, our_key, server_name="another.test")
        another_authority = Tls(ours, ours, our_key, server_name="captioner.test")
        for tls in (None, no_certificate, another_name, another_authority):
            with Client(target, timeout=5, tls=tls) as client, pytest.raises(ClientError) as caught:
                client.caption(b"photo")
            assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert planned.calls == 2


def test_of_several_servers_the_first_host_is_the_name_in_the_certificate() -> None:
    certificate, key = _certificate("localhost")
    planned = Planned()
    with listening(planned, grpc.ssl_server_credentials([(key, certificate)])) as target:
        port = target.rpartition(":")[2]
        with Client(f"localhost:{port},127.0.0.1:{port}", tls=Tls(certificate)) as client:
            assert client.caption(b"photo")
