"""Malformed messages (RFC 8446, 4 and 6.2): cut short anywhere, with bytes behind them, each length one too small or large."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.parameters import HandshakeFailed
from tests.conformance.situations import SITUATIONS, TYPES, Situation, judged, refused
from tests.peers.messages import MessageType, Type, message

TESTED: Final = [
    item for item in SITUATIONS if item.name in ("client mutual", "client psk", "server mutual", "server psk")
]


def steps(situation: Situation) -> list[str]:
    return [name for name in situation.names() if name in TYPES]


def cases() -> list[Any]:
    return [pytest.param(item, name, id=f"{item.name} {name}") for item in TESTED for name in steps(item)]


def changed(situation: Situation, name: str, edit: Callable[[bytes], bytes]) -> tuple[Any, Any]:
    peer = situation.peer()
    honest = peer.alter.get(TYPES[name], lambda data: data)
    peer.alter[TYPES[name]] = lambda data: edit(honest(data))
    return peer, judged(peer, situation.script(peer))


def shortened(end: int) -> Callable[[bytes], bytes]:
    return lambda data: message(data[0], data[4:end])


def overwritten(at: int, wrong: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + wrong + data[at + len(wrong) :]


def protection_of(situation: Situation, name: str) -> Any:
    return situation.protection_at(situation.names().index(name))


def honest(situation: Situation, name: str) -> bytes:
    seen: list[bytes] = []

    def note(data: bytes) -> bytes:
        seen.append(data)
        return data

    assert changed(situation, name, note)[1].completed
    return seen[0]


@pytest.mark.parametrize(("situation", "name"), cases())
def test_a_message_cut_short_anywhere(situation: Situation, name: str) -> None:
    """Its header says how short: decode_error, or protocol_version where a hello of TLS 1.2 is left."""
    whole = honest(situation, name)
    extensions: dict[int, int] = {
        MessageType.CLIENT_HELLO: 4 + 2 + 32 + 33 + 4 + 2,
        MessageType.SERVER_HELLO: 4 + 2 + 32 + 33 + 3,
    }
    for end in range(4, len(whole), 1 if len(whole) < 300 else 7):
        peer, verdict = changed(situation, name, shortened(end))
        alert = Alert.PROTOCOL_VERSION if end == extensions.get(whole[0]) else Alert.DECODE_ERROR
        refused(peer, verdict, alert, protection_of(situation, name))


@pytest.mark.parametrize(("situation", "name"), cases())
@pytest.mark.parametrize("more", [b"\0", b"\0\0", b"\0\0\0\0", bytes(40)])
def test_a_message_with_bytes_behind_it(situation: Situation, name: str, more: bytes) -> None:
    peer, verdict = changed(situation, name, lambda data: message(data[0], data[4:] + more))
    refused(peer, verdict, Alert.DECODE_ERROR, protection_of(situation, name))


# Lengths


def lengths(data: bytes) -> Iterator[tuple[int, int]]:
    """Offset and width of each length field behind a message's header, those within the known extensions too."""
    body = 4
    match data[0]:
        case MessageType.CLIENT_HELLO:
            at = body + 34
            for width in (1, 2, 1):
                yield at, width
                at += width + int.from_bytes(data[at : at + width])
            yield from extension_lengths(data, at)
        case MessageType.SERVER_HELLO:
            yield body + 34, 1
            yield from extension_lengths(data, body + 34 + 1 + data[body + 34] + 3)
        case MessageType.ENCRYPTED_EXTENSIONS:
            yield from extension_lengths(data, body)
        case MessageType.CERTIFICATE_REQUEST:
            yield body, 1
            yield from extension_lengths(data, body + 1)
        case MessageType.CERTIFICATE:
            yield body, 1
            yield body + 1, 3
            yield body + 4, 3
            yield from extension_lengths(data, body + 7 + int.from_bytes(data[body + 4 : body + 7]))
        case MessageType.CERTIFICATE_VERIFY:
            yield body + 2, 2


INNER: Final[dict[int, list[tuple[int, int]]]] = {
    Type.SERVER_NAME: [(0, 2), (3, 2)],
    Type.SUPPORTED_GROUPS: [(0, 2)],
    Type.SIGNATURE_ALGORITHMS: [(0, 2)],
    Type.PSK_KEY_EXCHANGE_MODES: [(0, 1)],
    Type.PRE_SHARED_KEY: [(0, 2), (2, 2)],
}


def extension_lengths(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    yield at, 2
    at += 2
    while at < len(data):
        kind, size = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
        yield at + 2, 2
        inner = dict(INNER)
        if data[0] == MessageType.CLIENT_HELLO:
            inner |= {Type.SUPPORTED_VERSIONS: [(0, 1)], Type.KEY_SHARE: [(0, 2), (4, 2)]}
        if data[0] == MessageType.SERVER_HELLO:
            inner |= {Type.KEY_SHARE: [(2, 2)], Type.PRE_SHARED_KEY: []}
        for offset, width in inner.get(kind, []) if size else []:
            yield at + 4 + offset, width
        at += 4 + size


@pytest.mark.parametrize(("situation", "name"), cases())
@pytest.mark.parametrize("by", [-1, 1, 2, 100])
def test_a_length_that_is_not_right(situation: Situation, name: str, by: int) -> None:
    whole = honest(situation, name)
    for at, width in lengths(whole):
        value = int.from_bytes(whole[at : at + width]) + by
        if not 0 <= value < 256**width:
            continue
        wrong = value.to_bytes(width)
        peer, verdict = changed(situation, name, overwritten(at, wrong))
        assert isinstance(verdict.event, HandshakeFailed), (at, width)
        refused(peer, verdict, Alert.DECODE_ERROR, protection_of(situation, name))


@pytest.mark.parametrize(("situation", "name"), cases())
def test_a_header_that_says_too_little(situation: Situation, name: str) -> None:
    """What is left over is the next message's header, in the same record."""
    _, verdict = changed(situation, name, lambda data: data[:1] + (len(data) - 4 - 1).to_bytes(3) + data[4:])
    assert isinstance(verdict.event, HandshakeFailed)
    assert verdict.event.failure.alert in (Alert.DECODE_ERROR, Alert.UNEXPECTED_MESSAGE)
    assert verdict.protection is protection_of(situation, name)
