"""Who is let in: bearer tokens from a file, TLS certificates, both read anew on SIGHUP."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from services.errors import TokenError
from services.settings import ServerSettings

log = logging.getLogger(__name__)

SHORTEST_TOKEN, LONGEST_TOKEN = 16, 512
"""Characters."""


class SecurityError(ValueError):
    """A file of tokens or certificates that cannot be used; one sentence that names the file, never its content."""


class Tokens:
    """The tokens of a file: one a line, a name before it if it has one; blank lines and those that begin with # do not
    count. Kept as digests."""

    def __init__(self, path: Path):
        self.path = path
        self._digests = _read_tokens(path)

    def __len__(self) -> int:
        return len(self._digests)

    def reload(self) -> None:
        """Read the file again; SecurityError leaves the tokens as they were."""
        self._digests = _read_tokens(self.path)

    def check(self, metadata: Iterable[tuple[str, Any]]) -> str:
        """The name of the token in a call's metadata; TokenError without one, or with another."""
        given = [value for name, value in metadata if name == "authorization"]
        if not given:
            raise TokenError("TOKEN_MISSING", 'this server asks for the metadata "authorization: Bearer TOKEN"')
        scheme, _, token = given[0].partition(" ") if isinstance(given[0], str) else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenError("TOKEN_MISSING", 'the metadata "authorization" must be "Bearer TOKEN"')
        digest, found = _digest(token.strip()), None
        for known, name in self._digests:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        if found is None or len(given) > 1:
            raise TokenError("TOKEN_INVALID", "the token is not one of this server's")
        return found


def _read_tokens(path: Path) -> list[tuple[bytes, str]]:
    """Digest and name of each token."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        mode = path.stat().st_mode
    except OSError as error:
        raise SecurityError(f"tokens {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SecurityError(f"tokens {path}: may hold ASCII only") from error
    digests = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise SecurityError(f"tokens {path}: line {number} must be TOKEN or NAME TOKEN, it has {len(words)} words")
        token = words[-1]
        if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
            limits = f"[{SHORTEST_TOKEN}, {LONGEST_TOKEN}]"
            raise SecurityError(f"tokens {path}: line {number}: a token's length must be in {limits}, got {len(token)}")
        digests.append((_digest(token), words[0] if len(words) == 2 else f"line {number}"))
    if not digests:
        raise SecurityError(f"tokens {path}: there is no token in it")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("tokens %s: its mode is %o, others may read it; 600 is enough", path, stat.S_IMODE(mode))
    return digests


def _digest(token: str) -> bytes:
    """Of one length, so that comparing tells nothing of a token's own."""
    return hashlib.sha256(token.encode()).digest()


class Certificates:
    """The server's certificate and key, and the authorities of its clients."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None):
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self._new: grpc.ServerCertificateConfiguration | None = None
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC, which asks at every handshake whether there are new certificates."""
        return grpc.dynamic_ssl_server_credentials(self._first, self._take, self.client_ca is not None)

    def reload(self) -> None:
        """Read the files again, for connections from now on; SecurityError leaves them as they were."""
        self._new = self._read()

    def _take(self) -> grpc.ServerCertificateConfiguration | None:
        new, self._new = self._new, None
        return new

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """gRPC itself would take any bytes and fail at every handshake: Python's ssl looks at them first."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # The empty password: an encrypted key fails here, where it would otherwise ask at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
            authorities = None if self.client_ca is None else self.client_ca.read_bytes()
            chain = [(self.key.read_bytes(), self.certificate.read_bytes())]
        except OSError as error:  # an ssl.SSLError is one
            files = ", ".join(str(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)
            raise SecurityError(f"TLS: {files} cannot be used: {error.strerror or error}") from error
        return grpc.ssl_server_certificate_configuration(chain, authorities)


def warn_of_openness(settings: ServerSettings) -> None:
    """Log what strangers could do, if the address is not loopback only."""
    if is_loopback(settings.host):
        return
    if settings.tls_certificate is None:
        log.warning(
            "%s is reached from other machines, and there is no TLS: all that is sent can be read", settings.host
        )
    if settings.tokens_file is None and settings.client_ca is None:
        log.warning("%s is reached from other machines, and no token is asked for: anyone may call", settings.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
