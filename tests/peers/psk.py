"""Adversaries with pre-shared keys: they bind and choose keys as RFC 8446, 4.2.11 has it, until a test wants otherwise.

Binders are computed here a second time, with nothing but hashlib and hmac.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    ClientPskParameters,
    KeysRequested,
    PreSharedKey,
    ServerPskParameters,
    TlsEvent,
)
from ktls_agent.sansio.tls.primitives import Transcript
from tests.peers import messages
from tests.peers.adversary import ClientAdversary, ServerAdversary, Step, without
from tests.peers.messages import MessageType, Type
from tests.tls.handshakes import Counter, identity

SHA256: Final = PreSharedKey(identity=b"NVMe0R01 host subsystem", secret=b"\x5a" * 32, hash_name="sha256")
SHA384: Final = PreSharedKey(identity=b"NVMe0R02 host subsystem", secret=b"\xa5" * 48, hash_name="sha384")
OTHER: Final = PreSharedKey(identity=b"other", secret=b"\x33" * 32, hash_name="sha256")


# Engines


@dataclass(kw_only=True)
class Answering:
    """A started server whose keys are looked up at once; called like the engine."""

    engine: TlsEngine
    known: Iterable[PreSharedKey]
    requested: list[tuple[bytes, ...]] = field(default_factory=list)
    events: list[TlsEvent] = field(default_factory=list)

    def receive_data(self, data: bytes) -> None:
        self.engine.receive_data(data)
        event = self.engine.next_event()
        if isinstance(event, KeysRequested):
            self.requested.append(event.identities)
            self.engine.provide_keys(tuple(key for key in self.known if key.identity in event.identities))
            event = self.engine.next_event()
        if event is not None:
            self.events.append(event)

    def data_to_send(self) -> bytes:
        return self.engine.data_to_send()

    def next_event(self) -> TlsEvent | None:
        return self.events.pop(0) if self.events else None


def started(parameters: ClientPskParameters | ServerPskParameters, seed: bytes = b"") -> TlsEngine:
    engine = TlsEngine(parameters, entropy=Counter(seed + type(parameters).__name__.encode()))
    engine.start()
    return engine


def offering(*keys: PreSharedKey, **changes: Any) -> ClientPskParameters:
    return replace(ClientPskParameters(keys=keys or (SHA256,)), **changes)


# Binders


def expand_label(secret: bytes, label: bytes, context: bytes, name: str) -> bytes:
    size = hashlib.new(name).digest_size
    info = size.to_bytes(2) + messages.vector(b"tls13 " + label, 1) + messages.vector(context, 1)
    return hmac.digest(secret, info + b"\x01", name)


def binder(key: PreSharedKey, before: Transcript, hello: bytes) -> bytes:
    """RFC 8446, 4.2.11.2 and 7.1; HKDF's output is one block of the hash."""
    name = key.hash_name
    early = hmac.digest(bytes(hashlib.new(name).digest_size), key.secret, name)
    binder_key = expand_label(early, b"ext binder", hashlib.new(name).digest(), name)
    transcript = before.copy()
    transcript.update(hello)
    return hmac.digest(expand_label(binder_key, b"finished", b"", name), transcript.digest(name), name)


def truncated(hello: bytes, binders: int) -> bytes:
    return hello[: -binders - 2]


# Adversaries


class PskClient(ClientAdversary):
    """A client that binds its keys, and then does what a test wants."""

    keys: tuple[PreSharedKey, ...] = (SHA256,)
    edit_offer: Callable[[list[bytes], list[bytes]], tuple[Any, Any]] | None = None

    def offer(self, _: bytes) -> bytes:
        """Write the hello with an offer that is bound to what went before."""
        kept = [item for item in self.hello.extensions if item[0] != Type.PRE_SHARED_KEY]
        names = [key.identity for key in self.keys]
        blank = [bytes(hashlib.new(key.hash_name).digest_size) for key in self.keys]
        hello = replace(self.hello, extensions=[*kept, messages.psk_offer(names, blank)])
        start = truncated(hello.write(), sum(1 + len(item) for item in blank))
        binders = [binder(key, self.transcript, start) for key in self.keys]
        self.hello.extensions = [*kept, messages.psk_offer(names, binders)]
        return self.hello.write()


def psk_client(
    parameters: ServerPskParameters | None = None,
    *keys: PreSharedKey,
    modes: bytes | None = b"\x01\x01",
    known: Iterable[PreSharedKey] = (SHA256, SHA384, OTHER),
    **changes: Any,
) -> PskClient:
    server = Answering(engine=started(parameters or ServerPskParameters()), known=known)
    peer = PskClient(server, **changes)
    peer.set_extension(Type.SIGNATURE_ALGORITHMS, None)
    if modes is not None:
        peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, modes)
    peer.keys = keys or (SHA256,)
    peer.psk = peer.keys[0].secret
    peer.alter[MessageType.CLIENT_HELLO] = peer.offer
    return peer


class PskServer(ServerAdversary):
    """A server that chooses a key; `key_share` False leaves the key exchange out."""

    chosen: bytes | None = b"\0\0"
    key_share = True

    def script(self, *, client_certificate: bool = False, hello_retry: bool = False) -> list[Step]:
        return without(
            super().script(client_certificate=client_certificate, hello_retry=hello_retry),
            "certificate",
            "certificate_verify",
        )

    def _hello(self, random: bytes, extensions: Any) -> messages.ServerHello:
        hello = super()._hello(random, extensions)
        if random != messages.HELLO_RETRY_RANDOM:
            if not self.key_share:
                hello.extensions = [item for item in hello.extensions if item[0] != Type.KEY_SHARE]
            if self.chosen is not None:
                hello.extensions.append((Type.PRE_SHARED_KEY, self.chosen))
        return hello

    def _exchange(self) -> tuple[bytes, bytes]:
        public, shared = super()._exchange()
        return public, shared if self.key_share else b""


def psk_server(
    parameters: ClientPskParameters | None = None,
    *,
    chosen: int | bytes | None = 0,
    key: PreSharedKey = SHA256,
    key_share: bool = True,
    suite: int | None = None,
    group: str = "x25519",
) -> PskServer:
    fitting = 0x1301 if key.hash_name == "sha256" else 0x1302
    peer = PskServer(started(parameters or offering()), identity(), suite=suite or fitting, group=group)
    peer.psk, peer.key_share = key.secret, key_share
    peer.chosen = chosen.to_bytes(2) if isinstance(chosen, int) else chosen
    return peer
