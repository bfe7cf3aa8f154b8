"""Capture files of others: link types, TCP put in order, and what is missing."""

import contextlib
import logging
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ktls_agent.io_trio import captures
from ktls_agent.io_trio.captures import Capture, CookedNetlink, parse_capture_untrusted, read_capture
from ktls_agent.sansio.capture.foreign_records import FlowEnd, TcpStream
from ktls_agent.sansio.capture.framing import CaptureError
from tests.capture.openssl import Turn
from tests.capture.streams import BEGAN, ETHERNET, LINKS, capture_of, tcp_packets

FUZZED = (
    Path(__file__).parents[2]
    / "fuzz/regressions/capture_file/a-section-header-in-mid-file-that-scapy-refuses"
)
TURNS: list[Turn] = [(True, b"hello" * 500), (False, b"answer" * 700), (True, b"bye")]
CLIENT, SERVER = b"hello" * 500 + b"bye", b"answer" * 700


def parsed(packets: list[Packet], *, link: Any = None) -> Capture:
    return parse_capture_untrusted(capture_of(packets, link=link, linktype=101 if link is None else None))


def only(capture: Capture) -> TcpStream:
    (stream,) = capture.streams
    return stream


def whole() -> list[Packet]:
    return list(tcp_packets(TURNS))


# Link types and formats


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("pcapng", [False, True])
def test_every_link_type(name: str, pcapng: bool) -> None:
    link, network = LINKS[name]
    packets = list(tcp_packets(TURNS, network=network))
    linktype = 101 if link is None else None
    capture = parse_capture_untrusted(capture_of(packets, link=link, pcapng=pcapng, linktype=linktype))
    stream = only(capture)
    ends = ("192.0.2.10:1023", "192.0.2.20:2049")
    if network is IPv6:
        ends = ("[2001:db8::10]:1023", "[2001:db8::20]:2049")
    assert (stream.client, stream.server) == ends
    assert (stream.to_server.data, stream.to_client.data) == (CLIENT, SERVER)
    assert (stream.to_server.end, stream.to_server.lost) == (FlowEnd.FIN, False)
    assert (capture.packets, capture.notes) == (len(packets), ())


def test_padding_of_a_link_is_no_data() -> None:
    packets = [ETHERNET / packet for packet in tcp_packets([(True, b"x")])]
    padded = [Ether(bytes(packet).ljust(60, b"\0")) for packet in packets]
    for packet, original in zip(padded, packets, strict=True):
        packet.time = original.time
    assert only(parse_capture_untrusted(capture_of(padded))).to_server.data == b"x"


def test_fragments_are_put_together() -> None:
    pieces = []
    for packet in whole():
        for piece in fragment(packet, fragsize=400):  # type: ignore[no-untyped-call]
            piece.time = packet.time
            pieces.append(piece)
    assert len(pieces) > len(whole())
    stream = only(parsed(pieces))
    assert (stream.to_server.data, stream.to_client.data) == (CLIENT, SERVER)


def test_other_packets_are_passed_over() -> None:
    others = [IP() / UDP() / Raw(b"x"), IP() / Raw(b"x"), IP(proto=6) / Raw(b"x")]
    capture = parsed([*others, *whole()])
    assert only(capture).to_server.data == CLIENT
    assert capture.packets == len(whole()) + 3


def test_times_are_those_of_the_segments() -> None:
    flow = only(parsed(whole())).to_server
    assert flow.time_of(0) == pytest.approx(BEGAN + 0.003, abs=1e-6)
    assert flow.time_of(len(CLIENT)) == pytest.approx(BEGAN + 0.011, abs=1e-6)


# TCP


@given(st.permutations(range(3, 12)))
def test_segments_in_any_order(order: list[int]) -> None:
    packets = whole()
    stream = only(parsed([*packets[:3], *(packets[index] for index in order), *packets[12:]]))
    assert (stream.to_server.data, stream.to_client.data) == (CLIENT, SERVER)
    assert not stream.to_server.lost


def test_segments_that_were_sent_again() -> None:
    packets = [packet for packet in whole() for _ in range(2)]
    assert only(parsed(packets)).to_server.data == CLIENT


def test_sequence_numbers_wrap_around() -> None:
    stream = only(parsed(list(tcp_packets(TURNS, isn=2**32 - 700))))
    assert (stream.to_server.data, stream.to_client.data) == (CLIENT, SERVER)


def test_a_keep_alive_is_no_data() -> None:
    packets = whole()
    alive = packets[4].copy()
    alive[TCP].seq = 1000
    alive[TCP].remove_payload()
    alive /= Raw(b"\0")
    alive.time = packets[4].time
    stream = only(parsed([*packets[:3], alive, *packets[3:]]))
    assert stream.to_server.data == CLIENT


@pytest.mark.parametrize("missing", [3, 4])
def test_a_direction_ends_where_bytes_are_missing(missing: int) -> None:
    packets = whole()
    del packets[missing]
    flow = only(parsed(packets)).to_server
    assert flow.data == CLIENT[: (missing - 3) * 1000]
    assert flow.lost


def test_bytes_that_are_missing_at_the_end_show_by_the_fin() -> None:
    packets = [packet for packet in whole() if bytes(packet[TCP].payload) != b"bye"]
    flow = only(parsed(packets)).to_server
    assert (flow.data, flow.lost, flow.end) == (CLIENT[:-3], True, FlowEnd.FIN)


def test_packets_that_the_capture_cut_short_leave_a_gap() -> None:
    packets = whole()
    short = IP(bytes(packets[3])[:500])
    short.time = packets[3].time
    flow = only(parsed([*packets[:3], short, *packets[4:]])).to_server
    assert (flow.data, flow.lost) == (CLIENT[:460], True)


def test_data_far_ahead_is_not_taken() -> None:
    packets = whole()
    far = packets[4].copy()
    far[TCP].seq += 200_000
    far.time = packets[4].time
    flow = only(parsed([*packets[:4], far])).to_server
    assert (flow.data, flow.lost) == (CLIENT[:1000], True)


def test_a_reset() -> None:
    packets = whole()
    packets[-2][TCP].flags = "RA"
    stream = only(parsed(packets))
    assert (stream.to_server.end, stream.to_client.end) == (FlowEnd.RST, FlowEnd.FIN)


def test_a_reset_behind_a_fin_counts() -> None:
    packets = whole()
    packets[-1] = packets[-2].copy()
    packets[-1][TCP].flags = "R"
    packets[-1].time = packets[-2].time
    assert only(parsed(packets)).to_server.end is FlowEnd.RST


@pytest.mark.parametrize(
    ("cut", "client"), [(1, "192.0.2.10:1023"), (3, "192.0.2.10:1023"), (6, "192.0.2.20:2049")]
)
def test_a_capture_that_begins_late(cut: int, client: str) -> None:
    stream = only(parsed(whole()[cut:]))
    assert stream.client == client
    if cut < 6:
        assert stream.to_server.data == CLIENT


def test_a_port_that_is_used_again_makes_another_connection() -> None:
    again = list(tcp_packets([(True, b"second")], isn=90_000))
    streams = parsed([*whole(), *again]).streams
    assert [stream.to_server.data for stream in streams] == [CLIENT, b"second"]


def test_a_syn_that_was_sent_again_does_not() -> None:
    packets = whole()
    assert only(parsed([packets[0], *packets])).to_server.data == CLIENT


# netlink


def cooked(data: bytes, family: int = 16) -> Packet:
    packet = CookedNetlink(family=family) / Raw(data)
    packet.time = BEGAN
    return packet


@pytest.mark.parametrize("pcapng", [False, True])
def test_generic_netlink_of_nlmon(pcapng: bool) -> None:
    packets = [cooked(b"one"), cooked(b"route", 0), cooked(b"two")]
    capture = parse_capture_untrusted(capture_of(packets, pcapng=pcapng, linktype=253))
    assert [(one.at, one.data) for one in capture.datagrams] == [(BEGAN, b"one"), (BEGAN, b"two")]
    assert capture.streams == ()


def test_the_daemon_and_the_writer_do_without_scapy() -> None:
    code = (
        "import sys, ktls_agent.io_trio.service, ktls_agent.sansio.capture.pcapng, ktls_agent.cli.foreign; "
        "print([name for name in sys.modules if name.partition('.')[0] == 'scapy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Bounds


@pytest.mark.parametrize(
    ("bound", "value", "check"),
    [
        ("MAX_PACKETS", 5, lambda capture: len(capture.streams) == 1),
        ("MAX_STREAMS", 0, lambda capture: capture.streams == ()),
    ],
)
def test_more_than_is_kept_is_told(
    bound: str, value: int, check: Callable[[Capture], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, bound, value)
    capture = parsed(whole())
    assert check(capture)
    assert capture.notes == (
        f"{len(whole()) - value} packets are more than is kept of one capture: filter it first.",
    )


def test_datagrams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MAX_DATAGRAMS", 2)
    capture = parse_capture_untrusted(capture_of([cooked(b"x")] * 5, linktype=253))
    assert len(capture.datagrams) == 2
    assert capture.notes == ("3 packets are more than is kept of one capture: filter it first.",)


@pytest.mark.parametrize(("bound", "value"), [("MAX_STREAM_BYTES", 1500), ("MAX_SEGMENTS", 1)])
def test_what_is_kept_of_a_direction_is_bounded(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, bound, value)
    flow = only(parsed(whole())).to_server
    assert (flow.data, flow.lost) == (CLIENT[:1000], True)


def test_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "large.pcap"
    path.write_bytes(capture_of(whole(), linktype=101) + bytes(1 << 20))
    with pytest.raises(CaptureError, match=r"^It has more than 1 MiB: filter it first"):
        read_capture(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.pcap"
    path.write_bytes(capture_of(whole(), linktype=101))
    assert only(read_capture(path)).to_server.data == CLIENT
    with pytest.raises(FileNotFoundError):
        read_capture(tmp_path / "missing.pcap")


# What is no capture, or is damaged


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "It is neither a pcap nor a pcapng file."),
        (b"\x1f\x8b\x08\x00" + bytes(20), "It is neither a pcap nor a pcapng file."),
        (bytes.fromhex("d4c3b2a1"), "Its header is not that of a pcap or pcapng file."),
        (bytes.fromhex("0a0d0d0a") + bytes(40), "Its header is not that of a pcap or pcapng file."),
    ],
)
def test_what_is_no_capture(data: bytes, sentence: str) -> None:
    with pytest.raises(CaptureError) as caught:
        parse_capture_untrusted(data)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("pcapng", [False, True])
def test_a_capture_that_was_cut_off_gives_what_there_is(pcapng: bool) -> None:
    data = capture_of(whole(), pcapng=pcapng, linktype=101, link=ETHERNET if pcapng else None)
    capture = parse_capture_untrusted(data[:-10])
    assert only(capture).to_server.data == CLIENT
    assert len(capture.notes) == 1
    assert "cut off" in capture.notes[0]


def test_a_block_that_can_not_be_read_ends_what_there_is() -> None:
    # Found by fuzzing: a section header in mid-file whose options are too short for scapy.
    block = struct.pack("<IIIHHq", 0x0A0D0D0A, 32, 0x1A2B3C4D, 1, 0, -1) + bytes(4) + struct.pack("<I", 32)
    good = capture_of(whole(), pcapng=True, link=ETHERNET)
    capture = parse_capture_untrusted(good + block)
    assert only(capture).to_server.data == CLIENT
    assert capture.packets == parse_capture_untrusted(good).packets
    assert len(capture.notes) <= 1
    found = FUZZED.read_bytes()
    assert any(
        note.startswith("What follows could not be read: ") for note in parse_capture_untrusted(found).notes
    )


def test_packets_that_scapy_fails_on_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(captures._Collector, "_take_segment", fail)
    assert parsed(whole()).notes == (f"{len(whole())} packets can't be read and were passed over.",)


def test_unknown_link_types_hold_nothing() -> None:
    capture = parse_capture_untrusted(capture_of([Raw(b"x" * 40)], linktype=147))
    assert (capture.packets, capture.streams) == (1, ())


def test_scapy_says_nothing_and_may_speak_again(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("scapy").level
    parse_capture_untrusted(capture_of([Raw(b"x" * 40)], linktype=147)[:-3])
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("scapy").level == level


SAMPLES = [
    capture_of(whole(), linktype=101),
    capture_of(whole(), link=ETHERNET, pcapng=True),
    capture_of([cooked(b"x" * 40)], linktype=253),
]


@settings(max_examples=150)
@given(st.data())
def test_any_file_is_read_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, min(len(mutated), 400) - 1))
        mutated[where] = data.draw(st.integers(0, 255))
    try:
        capture = parse_capture_untrusted(bytes(mutated)[: data.draw(st.integers(4, len(mutated)))])
    except CaptureError:
        return
    assert capture.packets <= 20


@given(
    st.sampled_from([b"", b"\xd4\xc3\xb2\xa1\2\0\4\0", b"\n\r\r\n\x1c\0\0\0\x4d\x3c\x2b\x1a\1\0"]),
    st.binary(max_size=200),
)
def test_any_bytes_are_read_or_refused(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(CaptureError):
        assert parse_capture_untrusted(start + rest).packets < 20
