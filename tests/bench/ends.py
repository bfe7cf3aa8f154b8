"""The two ends of a handshake in memory, ours and `ssl`'s, in one shape: bytes in, bytes out.

Both are given the same certificates, trust and preferences, both verify the chains that they are shown, and neither
resumes or sends tickets.  Credentials are loaded once; what a handshake needs of its own is made anew for each.
"""

import functools
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    SUNRPC_ALPN,
    ClientParameters,
    ClientPskParameters,
    HandshakeCompleted,
    KeysRequested,
    Parameters,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
)
from tests import pki
from tests.bench.ssl_psk import use_psk
from tests.tls.handshakes import (
    SERVER_NAME,
    authority,
    client_identity,
    client_verifier,
    identity,
    issued,
    server_verifier,
)

PSK: Final = PreSharedKey(identity=b"bench", secret=bytes(range(32)), hash_name="sha256")


class End(Protocol):
    """One end of a handshake."""

    def step(self, data: bytes) -> bytes:
        """Take what came from the other end, none at the start; return what goes there."""
        ...

    def check(self) -> None:
        """Fail unless the handshake is complete."""
        ...


class OurEnd:
    """An engine."""

    def __init__(self, parameters: Parameters) -> None:
        self._engine = TlsEngine(parameters, entropy=os.urandom)
        self._engine.start()
        self._completed = False

    def step(self, data: bytes) -> bytes:
        if data:
            self._engine.receive_data(data)
        event = self._engine.next_event()
        if isinstance(event, KeysRequested):
            self._engine.provide_keys((PSK,))
            event = self._engine.next_event()
        sent = self._engine.data_to_send()
        if event is not None:
            assert isinstance(event, HandshakeCompleted), event
            self._engine.extract_secrets()
            self._completed = True
        return sent

    def check(self) -> None:
        assert self._completed


class SslEnd:
    """An SSLObject."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None) -> None:
        self._input, self._output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._input, self._output, server_side=server_side, server_hostname=server_name
        )
        self._completed = False

    def step(self, data: bytes) -> bytes:
        self._input.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self._completed = True
        return self._output.read()

    def check(self) -> None:
        assert self._completed
        assert self._object.version() == "TLSv1.3"


MakeEnd = Callable[[], End]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How to make both ends of one implementation."""

    client: MakeEnd
    server: MakeEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of handshake, as each of the two does it."""

    name: str
    ours: Pair
    ssl: Pair


CASES: Final[Mapping[str, Callable[[], Case]]] = {
    "X25519, ECDSA P-256": lambda: _certificates("X25519, ECDSA P-256", "p256", mutual=False),
    "X25519, ECDSA P-256, one key share": lambda: _certificates(
        "X25519, ECDSA P-256, one key share", "p256", mutual=False, one_share=True
    ),
    "X25519, RSA-2048": lambda: _certificates("X25519, RSA-2048", "rsa2048", mutual=False),
    "X25519, ECDSA P-256, mutual": lambda: _certificates("X25519, ECDSA P-256, mutual", "p256", mutual=True),
    "X25519, PSK": lambda: Case(name="X25519, PSK", ours=_our_psk(), ssl=_ssl_psk()),
}
"""What makes each case, its certificates with it."""


def cases() -> tuple[Case, ...]:
    """The kinds of handshake that are measured."""
    return tuple(make() for make in CASES.values())


def _certificates(name: str, key_type: pki.KeyType, *, mutual: bool, one_share: bool = False) -> Case:
    return Case(
        name=name,
        ours=_our_certificates(key_type, mutual=mutual, one_share=one_share),
        ssl=_ssl_certificates(key_type, mutual=mutual),
    )


def _our_certificates(key_type: pki.KeyType, *, mutual: bool, one_share: bool) -> Pair:
    own, presented = identity(key_type), client_identity(key_type) if mutual else None

    def client() -> End:
        # The verifiers are a handshake's own: they hold its time.
        parameters = ClientParameters(verifier=server_verifier(), server_name=SERVER_NAME, identity=presented)
        return OurEnd(replace(parameters, key_shares=("x25519",)) if one_share else parameters)

    def server() -> End:
        verifier = client_verifier() if mutual else None
        return OurEnd(
            ServerParameters(identities=(own,), verifier=verifier, require_client_certificate=mutual)
        )

    return Pair(client=client, server=server)


def _our_psk() -> Pair:
    return Pair(
        client=lambda: OurEnd(ClientPskParameters(keys=(PSK,))),
        server=lambda: OurEnd(ServerPskParameters()),
    )


def _ssl_certificates(key_type: pki.KeyType, *, mutual: bool) -> Pair:
    client, server = _context(ssl.PROTOCOL_TLS_CLIENT), _context(ssl.PROTOCOL_TLS_SERVER)
    client.load_verify_locations(cadata=authority().der())
    client.set_alpn_protocols([SUNRPC_ALPN.decode()])
    server.set_alpn_protocols([SUNRPC_ALPN.decode()])
    _present(server, issued(key_type))
    if mutual:
        _present(client, issued(key_type, "client.test"))
        server.load_verify_locations(cadata=authority().der())
        server.verify_mode = ssl.CERT_REQUIRED
    return _ssl_pair(client, server, SERVER_NAME)


def _ssl_psk() -> Pair:
    client, server = _context(ssl.PROTOCOL_TLS_CLIENT), _context(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    use_psk(client, server, PSK.identity, PSK.secret)
    return _ssl_pair(client, server, None)


def _ssl_pair(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None) -> Pair:
    return Pair(
        client=functools.partial(SslEnd, client, server_side=False, server_name=name),
        server=functools.partial(SslEnd, server, server_side=True, server_name=None),
    )


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # nor do we send any
    return context


def _present(context: ssl.SSLContext, certificate: pki.Issued) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(certificate.certificate_pem())
        key.write_bytes(certificate.private_key_pem())
        context.load_cert_chain(chain, key)
