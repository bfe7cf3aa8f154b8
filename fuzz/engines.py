"""Targets of the TLS engine: a peer's bytes as they come, and a peer's messages under the right keys (`peers`)."""

from collections.abc import Callable
from functools import partial
from typing import Final

from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted

from . import engine_seeds
from .invariants import Answering, assert_cuts_do_not_matter
from .mutators import TLS, Mutator
from .peers import ClientPeer, Peer, ServerPeer
from .target import Target
from .world import engine

# Bytes as they come


def tls_client(data: bytes) -> None:
    """A server's bytes, at our client."""
    assert_cuts_do_not_matter(partial(engine, "client"), data)


def tls_server(data: bytes) -> None:
    """A client's bytes, at our server."""
    assert_cuts_do_not_matter(partial(engine, "server"), data)


def psk_client(data: bytes) -> None:
    """A server's bytes, at our client with pre-shared keys."""
    assert_cuts_do_not_matter(partial(engine, "psk_client"), data)


def psk_server(data: bytes) -> None:
    """A client's bytes, at our server with pre-shared keys."""
    assert_cuts_do_not_matter(partial(engine, "psk_server"), data)


# Messages under the right keys

_REST: Final = b"\x17\x03\x03\x00\x05more"


def tls_client_keyed(data: bytes) -> None:
    """A server's messages under the right keys, at our client with a certificate."""
    _play(ServerPeer, "client", data)


def tls_server_keyed(data: bytes) -> None:
    """A client's messages under the right keys, at our server that asks for a certificate."""
    _play(ClientPeer, "server", data)


def psk_client_keyed(data: bytes) -> None:
    """A server's messages under the right keys, at our client with pre-shared keys."""
    _play(ServerPeer, "psk_client", data)


def psk_server_keyed(data: bytes) -> None:
    """A client's messages under the right keys, with right binders, at our server with pre-shared keys."""
    _play(ClientPeer, "psk_server", data)


def _play(make: type[Peer], role: str, data: bytes) -> None:
    peer = make(engine(role))
    peer.play(data)
    peer.assert_agreement()
    event, _ = assert_cuts_do_not_matter(partial(engine, role), peer.sent)
    assert peer.event is None or peer.event == event
    if isinstance(event, HandshakeCompleted):
        _assert_rest_is_kept(engine(role), peer.sent)


def _assert_rest_is_kept(made: TlsEngine, data: bytes) -> None:
    """What comes behind the handshake is the kernel's, to the byte."""
    Answering(made).receive_data(data + _REST)
    assert made.trailing_data() == _REST


_MUTATOR: Final = Mutator(TLS)


def _target(run: Callable[[bytes], None], seeds: Callable[[], list[bytes]], weight: int) -> Target:
    return Target(
        run=run, seeds=seeds, mutator=_MUTATOR, weight=weight, max_length=8192, edges_only=True, keep=120
    )


TARGETS: Final = (
    _target(tls_client, engine_seeds.from_servers, 2),
    _target(tls_server, engine_seeds.from_clients, 2),
    _target(psk_client, engine_seeds.from_psk_servers, 2),
    _target(psk_server, engine_seeds.from_psk_clients, 2),
    _target(tls_client_keyed, engine_seeds.of_servers, 4),
    _target(tls_server_keyed, engine_seeds.of_clients, 4),
    _target(psk_client_keyed, engine_seeds.of_psk_servers, 3),
    _target(psk_server_keyed, engine_seeds.of_psk_clients, 3),
)
