"""Capture files of others, read with scapy: packets of any link type it knows become streams and datagrams.

scapy knows the formats of files, of links and of packets, puts IP fragments together and brings TCP's segments in order.
It is no part of the core, since it looks at interfaces and routes when it is imported.  And it is an extra
(`pip install ktls-agent[capture]`), since only this needs it: without it this module can't be imported.

Of scapy's reassembly its buffer (`StringBuffer`) is used and not its `TCPSession`: that one fills gaps with zeros and
says nothing, takes what is lost for what was said, and stumbles over sequence numbers that wrap around.  Here
sequence numbers are counted from the connection's first, and what has arrived is remembered beside the buffer, so
that a direction ends, and says so, where the first byte is missing.

Everything is bounded: the file, the connections, the packets of a connection, and the bytes of each direction that are
kept, which is the handshake and some of what follows.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from scapy.config import conf
from scapy.data import DLT_NETLINK
from scapy.error import Scapy_Exception
from scapy.fields import ShortField, StrFixedLenField
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.sessions import IPSession, StringBuffer
from scapy.utils import PcapReader

from ktls_agent.sansio.capture.foreign_records import Flow, FlowEnd, NetlinkDatagram, TcpStream
from ktls_agent.sansio.capture.framing import CaptureError, inspect_capture_untrusted
from ktls_agent.sansio.tls.certificates import printable

MAX_FILE_BYTES: Final = 64 << 20
"""scapy takes some ten seconds for so much in full segments; a longer capture is to be filtered first."""

MAX_STREAMS: Final = 4096
"""Connections of one capture: a reconnect storm has hundreds."""

MAX_STREAM_BYTES: Final = 1 << 20
"""Bytes of one direction that are kept: the largest handshake has a quarter of that, real ones some kilobytes."""

MAX_SEGMENTS: Final = 20_000
"""Segments of one direction that are kept: as many bytes, in segments of ordinary size, take a thousand."""

MAX_DATAGRAMS: Final = 100_000
"""Netlink datagrams of one capture; a handshake takes about ten."""

MAX_PACKETS: Final = 200_000
"""Packets of one capture; scapy reads about five thousand in a second."""

_NETLINK_GENERIC: Final = 16
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_SEQUENCE_MASK: Final = 0xFFFFFFFF


class CookedNetlink(Packet):
    """LINKTYPE_NETLINK, which scapy does not have: what libpcap puts before a datagram of nlmon."""

    name = "cooked netlink"
    fields_desc = [  # noqa: RUF012 - scapy's own way to say it
        ShortField("packet_type", 4),
        ShortField("hardware", 824),
        StrFixedLenField("unused", bytes(10), 10),
        ShortField("family", _NETLINK_GENERIC),
    ]


conf.l2types.register(DLT_NETLINK, CookedNetlink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a capture file holds.

    Attributes:
        packets: How many packets.
        streams: The TCP connections, in the order of their first packets.
        datagrams: The generic-netlink datagrams.
        keylog: The text of the key logs in it.
        notes: What is not whole or was passed over, in sentences.
    """

    packets: int = 0
    streams: tuple[TcpStream, ...] = ()
    datagrams: tuple[NetlinkDatagram, ...] = ()
    keylog: bytes = field(default=b"", repr=False)
    notes: tuple[str, ...] = ()


def read_capture(path: Path) -> Capture:
    """Read a capture file.

    Raises:
        OSError: It can't be read.
        CaptureError: It is no capture, or too large.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CaptureError(
            f"It has more than {MAX_FILE_BYTES >> 20} MiB: filter it first, by port for example."
        )
    return parse_capture_untrusted(data)


def parse_capture_untrusted(data: bytes) -> Capture:
    """Read a capture file's bytes.

    Raises:
        CaptureError: They are no capture.
    """
    framing = inspect_capture_untrusted(data)
    collector = _Collector()
    notes = [] if framing.cut is None else [framing.cut]
    with _silent_scapy():
        try:
            for packet in _packets(data):
                collector.take(packet)
        except _UnreadableError as error:
            notes.append(f"What follows could not be read: {error}.")
    return replace(collector.result(tuple(notes)), keylog=framing.keylog)


@contextlib.contextmanager
def _silent_scapy() -> Iterator[None]:
    """Keep scapy's opinions about odd packets off standard error: what is missing is told by our own notes."""
    logger = logging.getLogger("scapy")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


class _UnreadableError(Exception):
    """The file goes on with something that scapy can't read."""


def _packets(data: bytes) -> Iterator[Packet]:
    try:
        reader = PcapReader(io.BytesIO(data))  # type: ignore[arg-type]  # its type knows files alone
    except Scapy_Exception:
        raise CaptureError("Its header is not that of a pcap or pcapng file.") from None
    while True:
        try:
            packet = reader.read_packet(stop_dissection_after=TCP)
        except EOFError:
            return
        except Exception as error:  # scapy's reader raises about anything on a block that is malformed
            raise _UnreadableError(printable(str(error)) or type(error).__name__) from error
        yield packet


class _Direction:
    """What one end of a connection sends, brought in order by scapy's buffer."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._buffer = StringBuffer()
        self._arrived: list[tuple[int, int, float]] = []
        self._lost = False
        self._end = FlowEnd.OPEN
        self._length = 0

    @property
    def first(self) -> int | None:
        """The sequence number of the first byte; None if nothing was sent yet."""
        return self._first

    def take(self, segment: TCP, at: float) -> None:
        """Take a segment."""
        flags = int(segment.flags)
        sequence = (segment.seq + bool(flags & _SYN)) & _SEQUENCE_MASK
        if self._first is None:
            self._first = sequence
        offset = (sequence - self._first) & _SEQUENCE_MASK
        payload = segment.payload.load if type(segment.payload) is Raw else b""  # (Padding is a kind of Raw)
        if offset > _SEQUENCE_MASK // 2:  # from before the first byte: a keep-alive, or sent again
            payload, offset = payload[_SEQUENCE_MASK + 1 - offset :], 0
        if payload:
            self._keep(offset, payload, at)
        if payload or flags & _FIN:  # (what comes behind a FIN counts it as a byte)
            self._length = max(self._length, offset + len(payload))
        self._note_end(flags)

    def _note_end(self, flags: int) -> None:
        if flags & _RST:
            self._end = FlowEnd.RST
        elif flags & _FIN and self._end is FlowEnd.OPEN:
            self._end = FlowEnd.FIN

    def _keep(self, offset: int, payload: bytes, at: float) -> None:
        end = offset + len(payload)
        if end > MAX_STREAM_BYTES or len(self._arrived) == MAX_SEGMENTS:
            return
        self._buffer.append(payload, offset + 1)  # (it counts from 1)
        if len(self._buffer) >= end:  # (what is far ahead of the rest it drops)
            self._arrived.append((offset, end, at))

    def flow(self) -> Flow:
        """All bytes from the first to the first that is missing."""
        covered, latest = 0, 0.0
        times: list[tuple[int, float]] = []
        for start, end, at in sorted(self._arrived):
            if start > covered:
                break
            if end > covered:
                covered, latest = end, max(latest, at)
                times.append((covered, latest))
        data = bytes(self._buffer)[:covered]
        return Flow(data=data, times=tuple(times), lost=covered < self._length, end=self._end)


@dataclass(slots=True, kw_only=True)
class _Connection:
    """Both directions of a connection."""

    client: str
    server: str
    to_server: _Direction = field(default_factory=_Direction)
    to_client: _Direction = field(default_factory=_Direction)

    def stream(self) -> TcpStream:
        """What there is of it."""
        return TcpStream(
            client=self.client,
            server=self.server,
            to_server=self.to_server.flow(),
            to_client=self.to_client.flow(),
        )


class _Collector:
    """Sorts packets into connections and datagrams."""

    def __init__(self) -> None:
        self._fragments = IPSession()
        self._connections: list[_Connection] = []
        self._current: dict[frozenset[str], _Connection] = {}
        self._datagrams: list[NetlinkDatagram] = []
        self._packets = self._unreadable = self._beyond = 0

    def take(self, packet: Packet) -> None:
        """Take a packet of any kind."""
        self._packets += 1
        if self._packets > MAX_PACKETS:
            self._beyond += 1
            return
        try:
            self._sort(packet)
        except Exception:  # scapy raises about anything on packets that nobody ever sent
            self._unreadable += 1

    def _sort(self, packet: Packet) -> None:
        at = float(packet.time)
        if isinstance(packet, CookedNetlink):
            self._take_netlink(packet, at)
            return
        whole = self._fragments.process(packet)
        if whole is None or TCP not in whole:
            return
        network = whole[IP] if IP in whole else whole[IPv6]
        self._take_segment(network.src, network.dst, whole[TCP], at)

    def _take_netlink(self, packet: CookedNetlink, at: float) -> None:
        if packet.family != _NETLINK_GENERIC:
            return
        if len(self._datagrams) == MAX_DATAGRAMS:
            self._beyond += 1
            return
        self._datagrams.append(NetlinkDatagram(at=at, data=bytes(packet.payload)))

    def _take_segment(self, sender: str, receiver: str, segment: TCP, at: float) -> None:
        source, destination = _end(sender, segment.sport), _end(receiver, segment.dport)
        connection = self._connection(segment, source, destination)
        if connection is None:
            self._beyond += 1
        elif connection.client == source:
            connection.to_server.take(segment, at)
        else:
            connection.to_client.take(segment, at)

    def _connection(self, segment: TCP, source: str, destination: str) -> _Connection | None:
        ends = frozenset((source, destination))
        known = self._current.get(ends)
        opens = int(segment.flags) & (_SYN | _ACK) == _SYN
        if known is not None and not (opens and known.to_server.first != (segment.seq + 1) & _SEQUENCE_MASK):
            return known
        if len(self._connections) == MAX_STREAMS:
            return None
        answers = int(segment.flags) & (_SYN | _ACK) == _SYN | _ACK
        client, server = (destination, source) if answers else (source, destination)
        connection = self._current[ends] = _Connection(client=client, server=server)
        self._connections.append(connection)
        return connection

    def result(self, notes: tuple[str, ...]) -> Capture:
        """Everything that was collected."""
        if self._unreadable:
            notes += (f"{self._unreadable} packets can't be read and were passed over.",)
        if self._beyond:
            notes += (f"{self._beyond} packets are more than is kept of one capture: filter it first.",)
        return Capture(
            packets=self._packets,
            streams=tuple(connection.stream() for connection in self._connections),
            datagrams=tuple(self._datagrams),
            notes=notes,
        )


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
