"""What has to hold for every engine, whoever it talks to."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.diagnosis import MAX_REASON
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeFailed, KeysRequested, TlsEvent

from .world import KEYS

MAX_OUTPUT: Final = 8 * 1024
"""More than any flight of ours with these small certificates, twice."""


class Endpoint(Protocol):
    """What is fed: an engine, or one that answers for its keys."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""

    def data_to_send(self) -> bytes:
        """The bytes that are due to the peer."""
        ...

    def next_event(self) -> TlsEvent | None:
        """What happened, once."""
        ...


class Answering:
    """An engine that gets its keys as soon as it asks for them."""

    def __init__(self, engine: TlsEngine) -> None:
        self.engine = engine
        self._event: TlsEvent | None = None

    def receive_data(self, data: bytes) -> None:
        self.engine.receive_data(data)
        event = self.engine.next_event()
        if isinstance(event, KeysRequested):
            assert self.engine.bytes_wanted() == 0
            assert self.engine.data_to_send() == b""
            self.engine.provide_keys(KEYS)
            event = self.engine.next_event()
        assert event is None or self._event is None, "an engine tells only once how the handshake ended"
        self._event = event or self._event

    def data_to_send(self) -> bytes:
        return self.engine.data_to_send()

    def next_event(self) -> TlsEvent | None:
        event, self._event = self._event, None
        return event


def assert_sound(event: TlsEvent | None) -> None:
    """A failure is no defect, and its reason is fit for a line of the log."""
    if isinstance(event, HandshakeFailed):
        failure = event.failure
        assert failure.cause is not Cause.INTERNAL, failure.reason
        assert failure.alert is not Alert.INTERNAL_ERROR or failure.cause is Cause.PEER_ALERT, failure.reason
        assert failure.reason.isprintable(), ascii(failure.reason)
        assert 0 < len(failure.reason) <= MAX_REASON, len(failure.reason)


def run_out(engine: TlsEngine, pieces: Iterator[bytes]) -> tuple[TlsEvent | None, bytes]:
    """Feed an engine to the end of file: it ends, within bounds, and a failure is sticky.

    Returns:
        How the handshake ended, and all that the engine sent.
    """
    peer = Answering(engine)
    output = bytearray(peer.data_to_send())
    for piece in pieces:
        peer.receive_data(piece)
        output += peer.data_to_send()
    if not _over(engine):
        peer.receive_data(b"")
        output += peer.data_to_send()
    event = peer.next_event()
    assert event is not None, "the end of file ends every handshake"
    assert_sound(event)
    assert len(output) <= MAX_OUTPUT
    if isinstance(event, HandshakeFailed):
        assert_sticky(engine)
    return event, bytes(output)


def _over(engine: TlsEngine) -> bool:
    return engine.bytes_wanted() == 0


def assert_sticky(engine: TlsEngine) -> None:
    """After a failure nothing changes any more."""
    engine.data_to_send()
    for data in (b"\x16\x03\x03\x00\x04\x14\x00\x00\x00", b""):
        engine.receive_data(data)
        assert engine.next_event() is None
        assert engine.data_to_send() == b""
        assert engine.bytes_wanted() == 0


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Pieces of that size."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


_MAX_PIECES: Final = 8192
"""Longer inputs are what a peer repeats."""


def assert_cuts_do_not_matter(make: Callable[[], TlsEngine], data: bytes) -> tuple[TlsEvent | None, bytes]:
    """Whole, and in small pieces: the event and the output are the same.

    Single bytes cost a thousand times what the whole costs; so the input's checksum says whether it is single
    bytes (one input of eight, and all short ones) or pieces of some other size.

    Returns:
        How the handshake ended, and all that the engine sent.
    """
    whole = run_out(make(), cut(data, max(len(data), 1)))
    checksum = zlib.crc32(data)
    size = 1 if checksum % 8 == 0 or len(data) <= 256 else 2 + checksum % 600
    size = max(size, len(data) // _MAX_PIECES)
    assert whole == run_out(make(), cut(data, size)), f"pieces of {size} bytes make a difference"
    return whole
