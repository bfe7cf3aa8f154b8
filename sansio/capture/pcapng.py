"""A transcript as a pcapng file, which Wireshark and tshark dissect and, if it holds secrets, decrypt.

`encode_pcapng` writes the few blocks that this takes (IETF draft-ietf-opsawg-pcapng), little-endian:

- a Section Header, whose comment is the verdict on the request;
- two interfaces: "netlink" (LINKTYPE_NETLINK: datagrams behind the header that the kernel's nlmon makes) and "tcp"
  (LINKTYPE_RAW: packets that begin with the IP header);
- a Decryption Secrets Block with the TLS key log, if the transcript has secrets;
- an Enhanced Packet Block for each packet, with the time at which its step was taken.

The netlink datagrams and the bytes of the handshake are what was recorded.  Before the former stands the controller's
answer about the family, made of the number that the transcript has, so that readers know whose the others are.
The TCP connection is made up as well: a transcript has no segments.  It opens when the request starts, and it stays open where the handshake succeeded,
since the kernel goes on with it.  Addresses that are not known are those of documentation (RFC 5737, RFC 3849).
"""

import errno
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ..netlink.events import FamilyResolved
from ..netlink.messages import NLMSG_HEADER, encode_new_family
from ..netlink.spec import FAMILY_VERSION
from ..request import ClientAnon, ClientPsk, ClientX509, ServerPsk
from ..status import Cause
from ..steps import (
    Closed,
    Completed,
    Datagram,
    Failed,
    Interrupted,
    LocallyFailed,
    Received,
    Reported,
    SecretLogged,
    Sent,
    Started,
    Step,
)
from .transcript import Transcript

LINKTYPE_RAW: Final = 101
LINKTYPE_NETLINK: Final = 253

SECTION_HEADER_BLOCK: Final = 0x0A0D0D0A
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
INTERFACE_DESCRIPTION_BLOCK: Final = 1
ENHANCED_PACKET_BLOCK: Final = 6
DECRYPTION_SECRETS_BLOCK: Final = 10
TLS_KEY_LOG: Final = 0x544C534B

NFS_PORT: Final = 2049
NVME_PORT: Final = 4420  # NVMe/TCP: what the I/O controllers listen at

MAX_SEGMENT: Final = 1220
"""Bytes of TCP payload: what fits through every IPv6 network (1280 bytes)."""

_OPT_END: Final = 0
_OPT_COMMENT: Final = 1
_IF_NAME: Final = 2
_SHB_USERAPPL: Final = 4
_MAX_OPTION: Final = 4096
"""Bytes of a comment: a failure's reason has a few hundred."""

_NETLINK, _TCP = 0, 1  # the interfaces, in the order of their blocks
_COOKED_HEADER: Final = struct.pack(">HH10xH", 4, 824, 16)
"""What libpcap puts before a datagram of nlmon: PACKET_OUTGOING (in both directions), ARPHRD_NETLINK,
NETLINK_GENERIC."""

_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_WINDOW: Final = 0xFFFF
_TCP_HEADER: Final = struct.Struct(">HHIIBBHHH")
_FIRST_PRIVATE_PORT: Final = 49152  # RFC 6335, 6

_MAX_TIME: Final = 1e12
"""Seconds since 1970: what fits the 64 bits of a packet's time in microseconds, whatever a transcript says."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_AGENT: Final = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}
_UNKNOWN_PEER: Final = ipaddress.ip_address("192.0.2.2")


def encode_pcapng(transcript: Transcript, *, server_port: int | None = None) -> bytes:
    """Write a transcript as pcapng.

    Args:
        transcript: What was recorded.
        server_port: The server's TCP port; by default 2049 (NFS), and 4420 (NVMe/TCP) with pre-shared keys.  At 443
            Wireshark expects TLS without being told so.
    """
    said = verdict(transcript)
    blocks = [
        _section_header(transcript, said),
        _interface(LINKTYPE_NETLINK, "netlink"),
        _interface(LINKTYPE_RAW, "tcp"),
        *_secrets(transcript.of_type(SecretLogged)),
        *_packets(transcript, said, server_port),
    ]
    return b"".join(blocks)


def verdict(transcript: Transcript) -> str:
    """Tell in a sentence how a request ended."""
    status = next((step.status for step in transcript.of_type(Reported)), None)
    completed = transcript.of_type(Completed)
    if status is None:
        return "The request has no end in this recording."
    if status == 0 and completed:
        result = completed[-1].result
        return f"The handshake succeeded: {result.cipher_suite}, {result.group or 'no key exchange'}."
    return f"The handshake failed ({errno.errorcode.get(status, status)}): {_reason(transcript)}"


def _reason(transcript: Transcript) -> str:
    reasons = [_reason_of(timed.step) for timed in transcript.steps]
    return next((reason for reason in reversed(reasons) if reason), "no step says why.")


def _reason_of(step: Step) -> str | None:
    match step:
        case Failed(failure=failure) | LocallyFailed(failure=failure):
            return failure.reason
        case Interrupted(by=by):
            return f"{by.value}."
        case _:
            return None


# Blocks


def _block(block_type: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(padded))
    return struct.pack("<I", block_type) + length + padded + length


def _option(code: int, text: str) -> bytes:
    value = text.encode(errors="replace")[:_MAX_OPTION]
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _options(*options: bytes) -> bytes:
    return b"".join(options) + struct.pack("<HH", _OPT_END, 0) if options else b""


def _section_header(transcript: Transcript, said: str) -> bytes:
    fixed = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)  # version 1.0, length not given
    author = _option(_SHB_USERAPPL, f"ktls-agent {transcript.agent}")
    return _block(SECTION_HEADER_BLOCK, fixed + _options(_option(_OPT_COMMENT, said), author))


def _interface(link_type: int, name: str) -> bytes:
    fixed = struct.pack("<HHI", link_type, 0, 0)  # no bound on the packets' length; times in microseconds
    return _block(INTERFACE_DESCRIPTION_BLOCK, fixed + _options(_option(_IF_NAME, name)))


def _secrets(secrets: Iterable[SecretLogged]) -> list[bytes]:
    log = "".join(
        f"{logged.label} {logged.client_random.hex()} {logged.secret.hex()}\n" for logged in secrets
    ).encode()
    if not log:
        return []
    return [_block(DECRYPTION_SECRETS_BLOCK, struct.pack("<II", TLS_KEY_LOG, len(log)) + log)]


def _packet(interface: int, at: int, data: bytes, comment: str = "") -> bytes:
    fixed = struct.pack("<IIIII", interface, at >> 32, at & 0xFFFFFFFF, len(data), len(data))
    options = _options(_option(_OPT_COMMENT, comment)) if comment else b""
    return _block(ENHANCED_PACKET_BLOCK, fixed + data + bytes(-len(data) % 4) + options)


# Packets


def _packets(transcript: Transcript, said: str, server_port: int | None) -> Iterator[bytes]:
    began = transcript.recorded.timestamp()
    connection = _connection(transcript, server_port)
    asked = [step for step in transcript.of_type(Datagram) if step.outgoing]
    family_id = _family_of(asked)
    if family_id is not None:
        family = FamilyResolved(family_id=family_id, version=FAMILY_VERSION, groups={})
        yield _packet(_NETLINK, _microseconds(began), _COOKED_HEADER + encode_new_family(family, sequence=0))
    for timed in transcript.steps:
        at = _microseconds(began + timed.at)
        if isinstance(timed.step, Datagram):
            comment = said if asked and timed.step is asked[-1] else ""  # DONE, the last word to the kernel
            yield _packet(_NETLINK, at, _COOKED_HEADER + timed.step.data, comment)
        elif connection is not None:
            yield from (_packet(_TCP, at, packet) for packet in connection.packets_of(timed.step))


def _family_of(asked: list[Datagram]) -> int | None:
    """The number of the family: the type of every message to it."""
    if not asked or len(asked[0].data) < NLMSG_HEADER.size:
        return None
    return int(NLMSG_HEADER.unpack_from(asked[0].data)[1])


def _microseconds(seconds: float) -> int:
    return round(min(max(0.0, seconds), _MAX_TIME) * 1_000_000)


def _connection(transcript: Transcript, server_port: int | None) -> "_Connection | None":
    """Make up the connection; None if nothing passed over it."""
    started = next(iter(transcript.of_type(Started)), None)
    if started is None or not any(isinstance(timed.step, Sent | Received) for timed in transcript.steps):
        return None
    psk = isinstance(started.request, ClientPsk | ServerPsk)
    port = server_port or (NVME_PORT if psk else NFS_PORT)
    other_port = _FIRST_PRIVATE_PORT + started.request.sockfd % (0x10000 - _FIRST_PRIVATE_PORT)
    is_client = isinstance(started.request, ClientAnon | ClientX509 | ClientPsk)
    peer = _peer_address(started.peer_address)
    return _Connection(
        agent=_End(address=_AGENT[peer.version], port=other_port if is_client else port),
        peer=_End(address=peer, port=port if is_client else other_port),
        agent_is_client=is_client,
    )


def _peer_address(text: str | None) -> Address:
    try:
        address = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return _UNKNOWN_PEER
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@dataclass(slots=True, kw_only=True)
class _End:
    """One end of the connection; `sequence` is that of the next byte it sends."""

    address: Address
    port: int
    sequence: int = 0


@dataclass(slots=True, kw_only=True)
class _Connection:
    """The TCP connection that a request was about, as packets."""

    agent: _End
    peer: _End
    agent_is_client: bool
    _closed: bool = field(default=False)
    _failed: bool = field(default=False)

    def packets_of(self, step: Step) -> Iterator[bytes]:
        """The packets that stand for a step."""
        match step:
            case Started():
                yield from self._open()
            case Sent(data=data):
                yield from self._send(self.agent, self.peer, data)
            case Received(data=data) if data:
                yield from self._send(self.peer, self.agent, data)
            case Received():
                yield from self._close(self.peer, self.agent, _FIN)
            case _:
                yield from self._end(step)

    def _end(self, step: Step) -> Iterator[bytes]:
        match step:
            case Failed(failure=failure) | LocallyFailed(failure=failure):
                self._failed = True
                if failure.cause is Cause.CONNECTION_LOST:
                    yield from self._close(self.peer, self.agent, _RST)
            case Interrupted():
                self._failed = True
            case Closed() if self._failed:
                yield from self._close(self.agent, self.peer, _FIN)
            case _:
                pass

    def _open(self) -> Iterator[bytes]:
        ends = (self.agent, self.peer)
        source, destination = ends if self.agent_is_client else reversed(ends)
        yield _segment(source, destination, _SYN)
        source.sequence += 1
        yield _segment(destination, source, _SYN | _ACK)
        destination.sequence += 1
        yield _segment(source, destination, _ACK)

    def _send(self, source: _End, destination: _End, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), MAX_SEGMENT):
            payload = data[start : start + MAX_SEGMENT]
            yield _segment(source, destination, _ACK | _PSH, payload)
            source.sequence += len(payload)

    def _close(self, source: _End, destination: _End, how: int) -> Iterator[bytes]:
        if self._closed:
            return
        self._closed = True
        yield _segment(source, destination, how | _ACK)
        source.sequence += 1


def _segment(source: _End, destination: _End, flags: int, payload: bytes = b"") -> bytes:
    acknowledged = 0 if flags == _SYN else destination.sequence
    addresses = source.address.packed + destination.address.packed

    def header(checksum: int) -> bytes:
        ports = (source.port, destination.port)
        return _TCP_HEADER.pack(*ports, source.sequence, acknowledged, 5 << 4, flags, _WINDOW, checksum, 0)

    length = _TCP_HEADER.size + len(payload)
    pseudo = addresses + struct.pack(">II", length, 6)  # RFC 9293, 3.1; RFC 8200, 8.1: the same sum
    segment = header(_checksum(pseudo + header(0) + payload)) + payload
    if source.address.version == 6:
        return struct.pack(">IHBB", 6 << 28, length, 6, 64) + addresses + segment
    return _ipv4_header(addresses, length) + segment


def _ipv4_header(addresses: bytes, length: int) -> bytes:
    def header(checksum: int) -> bytes:
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, 6, checksum) + addresses

    return header(_checksum(header(0)))


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
