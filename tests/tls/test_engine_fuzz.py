"""Whatever a peer sends, an engine answers with events and a few bytes: never an exception, never a defect.

What is sent is random, or a real handshake with something wrong in it: in plaintext, under the right keys, and put
together from extensions of every type with any content.  Other projects' seeds are fed as they are.
"""

import functools
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.testing.pair import Link, Pipe, VirtualClock
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeFailed, TlsEvent
from tests.peers import messages
from tests.peers.adversary import (
    ALERT,
    HANDSHAKE,
    Adversary,
    ClientAdversary,
    ServerAdversary,
    Step,
    StuckError,
    does,
)
from tests.peers.messages import Extension, MessageType, Type, message
from tests.tls.handshakes import (
    client_engine,
    client_identity,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
    shake_hands,
)

MAX_OUTPUT: Final = 8192
"""What an engine may send in a handshake of the tests' sizes, whatever it is fed: two hellos or one flight."""

ROLES: Final = ["client", "server"]
PATIENCE: Final = 1.0
"""Seconds for one input; it takes milliseconds."""


def engine_of(role: str) -> TlsEngine:
    return client_engine(mutual_client()) if role == "client" else server_engine(mutual_server())


def assert_sound(event: TlsEvent | None) -> None:
    if isinstance(event, HandshakeFailed):
        assert event.failure.cause is not Cause.INTERNAL, event.failure.reason
        assert event.failure.alert is not Alert.INTERNAL_ERROR or event.failure.cause is Cause.PEER_ALERT
        assert event.failure.reason
        assert event.failure.reason.isprintable(), "a reason goes into a log line"
        assert len(event.failure.reason) < 1000


def feed(role: str, data: bytes, sizes: list[int]) -> None:
    """Feed it in pieces; then the failure, if it is one, is sticky and the output bounded."""
    engine, pipe = engine_of(role), Pipe(VirtualClock(), Link(chunks=tuple(sizes)))
    pipe.write(data)
    pipe.close()
    events: list[TlsEvent | None] = []
    sent, piece = engine.data_to_send(), pipe.read()
    while piece:
        engine.receive_data(piece)
        sent, piece = sent + engine.data_to_send(), pipe.read()
        events.append(engine.next_event())
    engine.receive_data(b"")
    (event,) = [event for event in (*events, engine.next_event()) if event is not None]
    assert_sound(event)
    assert len(sent + engine.data_to_send()) <= MAX_OUTPUT
    engine.receive_data(b"\x16\x03\x03\x00\x04\x14\x00\x00\x00")
    assert engine.data_to_send() == b""
    assert engine.next_event() is None
    assert engine.bytes_wanted() == 0


@functools.cache
def streams() -> dict[str, bytes]:
    """What each role receives in a whole handshake, with a HelloRetryRequest."""
    pair = shake_hands(mutual_client(), mutual_server(groups=("secp384r1",)))
    return {"client": pair.server.sent, "server": pair.client.sent}


def sizes() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 2000), min_size=1, max_size=5)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """A few bytes changed, taken out, put in or repeated."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["flip", "replace", "repeat", "delete", "number"])):
            case "flip" if at < len(changed):
                changed[at] ^= draw(st.integers(1, 255))
            case "replace":
                changed[at:end] = draw(st.binary(max_size=8))
            case "repeat":
                changed[at:at] = changed[at:end]
            case "number":
                changed[at : at + 2] = draw(st.sampled_from([b"\0\0", b"\xff\xff", b"\0\1", b"\x40\0"]))
            case _:
                del changed[at:end]
    return bytes(changed)


# Plaintext


@pytest.mark.parametrize("role", ROLES)
@given(data=st.binary(max_size=300), cuts=sizes())
@example(data=b"\x16\x03\x01\x00\x00", cuts=[1])
@example(data=b"\x80\x2e\x01\x03\x01", cuts=[5])
def test_random_bytes(role: str, data: bytes, cuts: list[int]) -> None:
    feed(role, data, cuts)


@pytest.mark.parametrize("role", ROLES)
@given(kind=st.sampled_from([1, 2, 8, 11, 13, 15, 20, 24, 25, 254]), body=st.binary(max_size=200))
def test_messages_of_random_bytes(role: str, kind: int, body: bytes) -> None:
    data = message(kind, body)
    feed(role, b"\x16\x03\x03" + len(data).to_bytes(2) + data, [1000])


@pytest.mark.parametrize("role", ROLES)
@given(data=st.data(), cuts=sizes())
def test_mutated_streams(role: str, data: st.DataObject, cuts: list[int]) -> None:
    feed(role, data.draw(mutated(streams()[role])), cuts)


# Under the right keys


def assert_survives(peer: Adversary, script: list[Step]) -> None:
    """Run the script with an adversary that may itself fail over what it has done to its messages."""
    started = time.monotonic()
    event: TlsEvent | None
    try:
        event = peer.run(script).event
    except StuckError:
        # The engine waits for the rest of a message, say: what it has said so far counts.
        event = peer.verdict().event
    assert_sound(event)
    assert time.monotonic() - started < PATIENCE
    assert sum(length + 5 for _, length in peer.records) <= MAX_OUTPUT


def client_peer(**changes: bool) -> ClientAdversary:
    return ClientAdversary(server_engine(mutual_server()), client_identity(), **changes)  # type: ignore[arg-type]


def server_peer() -> ServerAdversary:
    return ServerAdversary(client_engine(mutual_client()), identity(), group="secp384r1")


@settings(max_examples=150)
@given(
    kind=st.sampled_from([1, 11, 15, 20]),
    data=st.data(),
    retry=st.booleans(),
    fragment=st.sampled_from([1, 50, 2**14]),
)
def test_mutated_messages_of_a_client(kind: int, data: st.DataObject, retry: bool, fragment: int) -> None:
    peer = client_peer(share_sent=not retry)
    peer.fragment = fragment
    peer.alter[kind] = lambda honest: data.draw(mutated(honest))
    assert_survives(peer, peer.script(certificate=True, hello_retry=retry))


@settings(max_examples=150)
@given(
    kind=st.sampled_from([2, 8, 11, 13, 15, 20]),
    data=st.data(),
    fragment=st.sampled_from([1, 50, 2**14]),
)
def test_mutated_messages_of_a_server(kind: int, data: st.DataObject, fragment: int) -> None:
    peer = server_peer()
    peer.fragment = fragment
    peer.alter[kind] = lambda honest: data.draw(mutated(honest))
    assert_survives(peer, peer.script(client_certificate=True, hello_retry=True))


@given(
    data=st.data(), position=st.integers(0, 9), content_type=st.integers(0, 255), inner=st.binary(max_size=80)
)
def test_records_out_of_nowhere_under_the_keys(
    data: st.DataObject, position: int, content_type: int, inner: bytes
) -> None:
    peers: list[tuple[Adversary, list[Step]]] = [
        ((server := server_peer()), server.script(client_certificate=True, hello_retry=True)),
        ((client := client_peer()), client.script(certificate=True)),
    ]
    kind = data.draw(st.sampled_from([HANDSHAKE, ALERT, content_type]))
    for peer, script in peers:
        step = does(lambda sender: sender.record(kind, inner))
        assert_survives(peer, [*script[:position], step, *script[position:]])


@settings(max_examples=150)
@given(order=st.permutations(range(9)), count=st.integers(1, 9))
def test_steps_in_any_order(order: list[int], count: int) -> None:
    peer = ServerAdversary(client_engine(mutual_client()), identity())
    script = peer.script(client_certificate=True)
    # The keys can't be used before they are there: those steps stay where they are.
    hello, rest = script[:3], script[3:]
    chosen = [rest[number % len(rest)] for number in order[:count]]
    assert_survives(peer, [*hello, *(step for step in chosen if step.name != "application_keys")])


# Extensions


LEGACY: Final = (9, 12, 17, 20, 22, 13172, 0xF300)
"""cert_type, srp, two of certificates, encrypt_then_mac, NPN, TACK: tlslite-ng has parsers for them."""


def extensions() -> st.SearchStrategy[list[Extension]]:
    kinds = st.sampled_from([*sorted(Type), *LEGACY]) | st.integers(0, 65535)
    contents = st.sampled_from([b"", b"\0", b"\0\0", b"\1\0", b"\0\1\0", b"\0\2\0\0", b"\2\3\4"]) | st.binary(
        max_size=20
    )
    return st.lists(st.tuples(kinds, contents), max_size=4)


def merged(honest: list[Extension], extra: list[Extension], replace: bool) -> list[Extension]:
    """The honest extensions with others at their end, or in their places."""
    if not replace:
        return [*honest, *extra]
    wanted = dict(extra)
    return [(kind, wanted.pop(kind, content)) for kind, content in honest] + list(wanted.items())


@settings(max_examples=300)
@given(extra=extensions(), replace=st.booleans(), retry=st.booleans())
def test_client_hellos_with_any_extension(extra: list[Extension], replace: bool, retry: bool) -> None:
    peer = client_peer(share_sent=not retry)
    peer.hello.extensions = merged(peer.hello.extensions, extra, replace)
    assert_survives(peer, peer.script(certificate=True, hello_retry=retry))


@settings(max_examples=300)
@given(second=extensions(), replace=st.booleans())
def test_second_client_hellos_with_any_extension(second: list[Extension], replace: bool) -> None:
    peer = client_peer(share_sent=False)

    def change(sender: Adversary) -> None:
        assert isinstance(sender, ClientAdversary)
        sender.hello.extensions = merged(sender.hello.extensions, second, replace)

    script = peer.script(certificate=True, hello_retry=True)
    assert_survives(peer, [script[0], does(lambda sender: sender.deliver()), does(change), *script[1:]])


@settings(max_examples=300)
@given(
    extra=extensions(),
    where=st.sampled_from(["retry", "hello", "encrypted", "request", "certificate"]),
    replace=st.booleans(),
)
def test_server_messages_with_any_extension(extra: list[Extension], where: str, replace: bool) -> None:
    peer = server_peer()

    def change(hello: messages.ServerHello) -> None:
        if (hello.random == messages.HELLO_RETRY_RANDOM) == (where == "retry"):
            hello.extensions = merged(hello.extensions, extra, replace)

    if where in ("retry", "hello"):
        peer.change_hello = change
    if where == "encrypted":
        peer.extensions = extra
    if where == "request":
        peer.request_extensions = merged(peer.request_extensions, extra, replace)
    if where == "certificate":
        peer.alter[MessageType.CERTIFICATE] = lambda _: messages.certificate(
            identity().chain, extensions=extra
        )
    assert_survives(peer, peer.script(client_certificate=True, hello_retry=True))


# Other projects' seeds


@pytest.mark.parametrize(
    ("folder", "role"),
    [("client", "client"), ("psk_client", "client"), ("server", "server"), ("psk_server", "server")],
)
def test_gnutls_seeds(shared_data: Path, folder: str, role: str) -> None:
    seeds = sorted((shared_data / "tls-seeds" / folder).iterdir())
    assert len(seeds) > 50
    for seed in seeds:
        started = time.monotonic()
        feed(role, seed.read_bytes(), [100_000])
        assert time.monotonic() - started < PATIENCE, seed.name


def test_aioquic_messages_in_plaintext_and_under_the_keys(shared_data: Path) -> None:
    files = sorted((shared_data / "tls-messages").glob("*.bin"))
    assert len(files) == 16
    for file in files:
        data = file.read_bytes()
        for role in ROLES:
            feed(role, b"\x16\x03\x03" + len(data).to_bytes(2) + data, [100_000])
        for position in range(3, 8):
            server, client = server_peer(), client_peer()
            step = does(lambda sender, sent=data: sender.message(sent))
            script = server.script(client_certificate=True, hello_retry=True)
            assert_survives(server, [*script[:position], step, *script[position:]])
            script = client.script(certificate=True)
            assert_survives(client, [*script[:position], step, *script[position:]])
