"""Pairs of engines in memory, with certificates and entropy that are the same in each run.

    pair = shake_hands(client_parameters(), server_parameters())
    assert isinstance(pair.client.event, HandshakeCompleted)

`Counter` is a deterministic stream of bytes in the place of `os.urandom`; certificates come from `tests.pki`,
verifiers are the real ones.
"""

import functools
from dataclasses import replace
from typing import Any, Final

from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.testing.entropy import SeededEntropy
from ktls_agent.sansio.testing.pair import PERFECT_LINK, ConnectionPair, Link
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import ClientParameters, Identity, ServerParameters
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


class Counter(SeededEntropy):
    """Entropy that is the same each time for the same seed, and remembers how much was drawn."""

    def __init__(self, seed: bytes = b"") -> None:
        super().__init__(seed)
        self.drawn: list[int] = []

    def __call__(self, count: int) -> bytes:
        self.drawn.append(count)
        return super().__call__(count)


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


# Pairs

BYTE_BY_BYTE: Final = Link(chunks=(1,))


def shake_hands(
    client: ClientParameters | None = None,
    server: ServerParameters | None = None,
    *,
    seed: bytes = b"",
    link: Link = PERFECT_LINK,
) -> ConnectionPair:
    """Run a handshake until nothing moves; both sides read all that is there, in the chunks of `link`."""
    pair = ConnectionPair(
        client or client_parameters(),
        server or server_parameters(),
        to_server=link,
        to_client=link,
        seed=seed,
        exact_reads=False,
    )
    pair.run()
    return pair


def secrets_of(pair: ConnectionPair) -> tuple[KernelSecrets, KernelSecrets]:
    """Both sides' secrets, the client's first."""
    return pair.client.secrets, pair.server.secrets
