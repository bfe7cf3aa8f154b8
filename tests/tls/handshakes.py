"""Pairs of engines in memory, with certificates and entropy that are the same in each run.

    handshake = shake_hands(client_parameters(), server_parameters())
    assert isinstance(handshake.client.event, HandshakeCompleted)

`Counter` is a deterministic stream of bytes in the place of `os.urandom`; certificates come from `tests.pki`,
verifiers are the real ones.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    ClientParameters,
    HandshakeCompleted,
    HandshakeFailed,
    Identity,
    ServerParameters,
    TlsEvent,
)
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier, TrustStore
from tests import pki

SERVER_NAME: Final = "server.test"
KEY_TYPES: Final[tuple[pki.KeyType, ...]] = (
    "p256",
    "p384",
    "p521",
    "rsa2048",
    "rsa3072",
    "ed25519",
    "ed448",
)
LONG_AGO: Final = pki.NOW - 3_000 * pki.DAY
FAR_FUTURE: Final = pki.NOW + 20_000 * pki.DAY
"""Live peers look at the real clock: what they are shown is valid whatever it says."""


class Counter:
    """Entropy that is the same each time for the same seed."""

    def __init__(self, seed: bytes = b"") -> None:
        self._seed = seed
        self._draws = 0
        self.drawn: list[int] = []

    def __call__(self, count: int) -> bytes:
        self._draws += 1
        self.drawn.append(count)
        return hashlib.shake_256(self._seed + self._draws.to_bytes(8)).digest(count)


# Certificates


@functools.cache
def authority() -> pki.Authority:
    return pki.Authority(not_before=LONG_AGO, not_after=FAR_FUTURE)


@functools.cache
def trust() -> TrustStore:
    return TrustStore([authority().certificate])


@functools.cache
def issued(key_type: pki.KeyType = "p256", name: str = SERVER_NAME) -> pki.Issued:
    return authority().issue(
        (name,), ips=("127.0.0.1",), key_type=key_type, not_before=LONG_AGO, not_after=FAR_FUTURE
    )


@functools.cache
def identity(key_type: pki.KeyType = "p256", name: str = SERVER_NAME) -> Identity:
    return issued(key_type, name).identity()


def client_identity(key_type: pki.KeyType = "p256") -> Identity:
    return identity(key_type, "client.test")


# Parameters


def server_verifier(name: str = SERVER_NAME) -> ServerCertificateVerifier:
    return ServerCertificateVerifier(trust(), name=name, now=pki.NOW)


def client_verifier() -> ClientCertificateVerifier:
    return ClientCertificateVerifier(trust(), now=pki.NOW)


def client_parameters(**changes: Any) -> ClientParameters:
    return replace(ClientParameters(verifier=server_verifier(), server_name=SERVER_NAME), **changes)


def server_parameters(key_type: pki.KeyType = "p256", **changes: Any) -> ServerParameters:
    return replace(ServerParameters(identities=(identity(key_type),)), **changes)


def mutual_client(key_type: pki.KeyType = "p256", **changes: Any) -> ClientParameters:
    return client_parameters(identity=client_identity(key_type), **changes)


def mutual_server(key_type: pki.KeyType = "p256", **changes: Any) -> ServerParameters:
    wanted: dict[str, Any] = {"verifier": client_verifier(), "require_client_certificate": True}
    return server_parameters(key_type, **(wanted | changes))


# Engines


def client_engine(parameters: ClientParameters | None = None, *, seed: bytes = b"client") -> TlsEngine:
    """A client that has been started."""
    return _started(parameters or client_parameters(), seed)


def server_engine(parameters: ServerParameters | None = None, *, seed: bytes = b"server") -> TlsEngine:
    """A server that has been started."""
    return _started(parameters or server_parameters(), seed)


def _started(parameters: ClientParameters | ServerParameters, seed: bytes) -> TlsEngine:
    engine = TlsEngine(parameters, entropy=Counter(seed))
    engine.start()
    return engine


# Feeding

Chop = Callable[[bytes], Iterable[bytes]]
"""Cuts what is fed to an engine into pieces."""


def whole(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def in_pieces_of(sizes: Iterable[int]) -> Chop:
    """Cut into pieces of these sizes, over and over."""
    wanted = tuple(sizes)

    def chop(data: bytes) -> Iterator[bytes]:
        start, turn = 0, 0
        while start < len(data):
            end = start + wanted[turn % len(wanted)]
            yield data[start:end]
            start, turn = end, turn + 1

    return chop


@dataclass(kw_only=True)
class Side:
    """One end of a handshake: its engine, all that it sent and how it ended."""

    engine: TlsEngine
    sent: bytes = b""
    event: TlsEvent | None = None

    def collect(self) -> bytes:
        data = self.engine.data_to_send()
        self.sent += data
        self.note_event()
        return data

    def note_event(self) -> None:
        if (event := self.engine.next_event()) is not None:
            assert self.event is None, "an engine tells only once how the handshake ended"
            self.event = event

    @property
    def completed(self) -> HandshakeCompleted:
        assert isinstance(self.event, HandshakeCompleted), self.event
        return self.event

    @property
    def failed(self) -> HandshakeFailed:
        assert isinstance(self.event, HandshakeFailed), self.event
        return self.event


@dataclass(kw_only=True)
class Handshake:
    client: Side
    server: Side


def shake_hands(
    client: ClientParameters | None = None,
    server: ServerParameters | None = None,
    *,
    seed: bytes = b"",
    chop: Chop = whole,
) -> Handshake:
    """Run a handshake between two engines until neither has more to say."""
    pair = Handshake(
        client=Side(engine=client_engine(client, seed=b"client" + seed)),
        server=Side(engine=server_engine(server, seed=b"server" + seed)),
    )
    while move(pair.client, pair.server, chop) or move(pair.server, pair.client, chop):
        pass
    return pair


def move(source: Side, target: Side, chop: Chop = whole) -> bool:
    """Carry what `source` has to send to `target`; False if there was nothing."""
    data = source.collect()
    for piece in chop(data):
        target.engine.receive_data(piece)
    target.note_event()
    return bool(data)


def secrets_of(pair: Handshake) -> tuple[KernelSecrets, KernelSecrets]:
    """Both sides' secrets, the client's first."""
    return pair.client.engine.extract_secrets(), pair.server.engine.extract_secrets()
