"""What was overheard, as the records that captures become, and as capture files."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether, Loopback
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, PcapWriter

from ktls_agent.sansio.capture.foreign_records import Flow, TcpStream
from tests.capture.openssl import Overheard, Turn

CLIENT, SERVER = "192.0.2.10:1023", "192.0.2.20:2049"
BEGAN = 1_780_000_000.0
STARTTLS_CALL = bytes.fromhex(
    "80000028" + "12345678" + "00000000" + "00000002" + "000186a3" + "00000004" + "00000000"
    "00000007" + "00000000" + "00000000" + "00000000"
)
STARTTLS_REPLY = bytes.fromhex("8000002012345678000000010000000000000000000000085354415254544c5300000000")
PREAMBLE: Sequence[Turn] = ((True, STARTTLS_CALL), (False, STARTTLS_REPLY))


def stream_of(turns: Iterable[Turn]) -> TcpStream:
    """The stream of a connection: a millisecond for each turn."""
    data = {True: b"", False: b""}
    times: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    for number, (by_client, said) in enumerate(turns):
        data[by_client] += said
        times[by_client].append((len(data[by_client]), BEGAN + number / 1000))
    flows = {side: Flow(data=data[side], times=tuple(times[side])) for side in (True, False)}
    return TcpStream(client=CLIENT, server=SERVER, to_server=flows[True], to_client=flows[False])


def with_data(stream: TcpStream, *, client: bytes | None = None, server: bytes | None = None) -> TcpStream:
    """The same stream with other bytes."""
    if client is not None:
        stream = replace(stream, to_server=replace(stream.to_server, data=client))
    if server is not None:
        stream = replace(stream, to_client=replace(stream.to_client, data=server))
    return stream


def tcp_packets(
    turns: Iterable[Turn], *, network: type[Packet] = IP, segment: int = 1000, isn: int = 1000
) -> Iterator[Packet]:
    """A connection as packets, from SYN to FIN."""
    addresses = ("192.0.2.10", "192.0.2.20") if network is IP else ("2001:db8::10", "2001:db8::20")
    next_byte = {True: isn, False: isn + 5000}
    count = 0

    def packet(by_client: bool, flags: str, payload: bytes = b"") -> Packet:
        nonlocal count
        source, destination = addresses if by_client else addresses[::-1]
        ports = (1023, 2049) if by_client else (2049, 1023)
        made = network(src=source, dst=destination) / TCP(
            sport=ports[0],
            dport=ports[1],
            flags=flags,
            seq=next_byte[by_client] % 2**32,
            ack=0 if flags == "S" else next_byte[not by_client] % 2**32,
        )
        if payload:
            made /= Raw(payload)
        made.time = BEGAN + count / 1000
        count += 1
        next_byte[by_client] += len(payload) + ("S" in flags or "F" in flags)
        return made

    yield packet(True, "S")
    yield packet(False, "SA")
    yield packet(True, "A")
    for by_client, said in turns:
        for start in range(0, len(said), segment):
            yield packet(by_client, "PA", said[start : start + segment])
    yield packet(True, "FA")
    yield packet(False, "FA")


ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
"""With addresses: for one that is not given scapy asks the network."""

LINKS: dict[str, tuple[Any, type[Packet]]] = {
    "ethernet": (ETHERNET, IP),
    "ethernet, IPv6": (ETHERNET, IPv6),
    "cooked": (CookedLinux(), IP),
    "cooked, version 2": (CookedLinuxV2(), IP),
    "loopback": (Loopback(), IP),
    "raw": (None, IP),
    "raw, IPv6": (None, IPv6),
}


def capture_of(
    packets: Iterable[Packet], *, link: Any = None, pcapng: bool = False, linktype: int | None = None
) -> bytes:
    """Write packets as a capture file."""
    with tempfile.NamedTemporaryFile() as file:
        writer = PcapNgWriter(file.name) if pcapng else PcapWriter(file.name, linktype=linktype)
        for packet in packets:
            framed = packet if link is None else link.copy() / packet
            framed.time = packet.time
            writer.write(framed)
        writer.close()
        return Path(file.name).read_bytes()


def overheard_stream(heard: Overheard, preamble: Sequence[Turn] = ()) -> TcpStream:
    return stream_of([*preamble, *heard.turns])
