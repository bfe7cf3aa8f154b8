"""The framing of capture files: whole or not, and the secrets inside."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.packet import Raw

from ktls_agent.sansio.capture.framing import CaptureError, inspect_capture_untrusted, is_capture
from tests.capture.streams import capture_of

PCAP = capture_of([Raw(b"one"), Raw(b"two")], linktype=101)
PCAPNG = capture_of([Raw(b"one"), Raw(b"two")], pcapng=True)


def block(order: str, kind: int, body: bytes) -> bytes:
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def secrets(order: str, text: bytes, kind: int = 0x544C534B) -> bytes:
    return block(order, 10, struct.pack(f"{order}II", kind, len(text)) + text + bytes(-len(text) % 4))


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (PCAP, True),
        (PCAPNG, True),
        (bytes.fromhex("a1b2c3d4"), True),
        (bytes.fromhex("a1b23c4d"), True),
        (bytes.fromhex("4d3cb2a1"), True),
        (b'{"transcript": 1', False),
        (bytes.fromhex("1f8b0800"), False),
        (b"\x0a\x0d\x0d", False),
        (b"", False),
    ],
)
def test_what_claims_to_be_a_capture(start: bytes, answer: bool) -> None:
    assert is_capture(start) is answer
    assert is_capture(start[:4]) is answer


def test_what_is_no_capture_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"^It is neither a pcap nor a pcapng file\.$"):
        inspect_capture_untrusted(b"no capture")


@pytest.mark.parametrize("whole", [PCAP, PCAPNG, section("<"), section(">") + section("<"), PCAP[:24]])
def test_a_whole_file_is_not_cut(whole: bytes) -> None:
    assert inspect_capture_untrusted(whole).cut is None


def test_a_pcap_file_that_was_cut_off() -> None:
    for size in range(25, len(PCAP)):
        if size == 24 + 19:  # (between the packets)
            continue
        cut = inspect_capture_untrusted(PCAP[:size]).cut
        assert cut == f"The file is cut off in a packet at its end, byte {size}."


def test_a_pcapng_file_that_was_cut_off() -> None:
    ends = []
    for size in range(4, len(PCAPNG)):
        cut = inspect_capture_untrusted(PCAPNG[:size]).cut
        if cut is None:
            ends.append(size)
        else:
            assert cut.startswith("The file is cut off in a block at byte ")
    assert len(ends) == 3, "between the four blocks"


@pytest.mark.parametrize("length", [0, 4, 11, 13, 30])
def test_a_block_of_a_wrong_length_ends_it(length: int) -> None:
    data = section("<") + struct.pack("<II", 6, length) + bytes(40)
    assert inspect_capture_untrusted(data).cut == f"The block at byte 28 has the wrong length {length}."


@pytest.mark.parametrize("order", ["<", ">"])
def test_secrets_of_all_blocks_are_joined(order: str) -> None:
    data = section(order) + secrets(order, b"one") + secrets(order, b"other kind", 1) + secrets(order, b"two")
    assert inspect_capture_untrusted(data).keylog == b"one\ntwo\n"


def test_sections_may_differ_in_byte_order() -> None:
    data = section("<") + secrets("<", b"one") + section(">") + secrets(">", b"two")
    assert inspect_capture_untrusted(data).keylog == b"one\ntwo\n"


def test_secrets_before_a_cut_are_kept() -> None:
    framing = inspect_capture_untrusted(section("<") + secrets("<", b"one") + b"more")
    assert framing.keylog == b"one\n"
    assert framing.cut is not None
    assert "one" not in repr(framing)


def test_a_block_of_secrets_without_a_header_holds_none() -> None:
    assert inspect_capture_untrusted(section("<") + block("<", 10, bytes(4))).keylog == b""


@given(st.sampled_from([PCAP, PCAPNG, section(">")]), st.integers(0, 60), st.binary(max_size=60))
def test_any_bytes_are_walked(good: bytes, kept: int, rest: bytes) -> None:
    data = good[: 4 + kept] + rest
    assert inspect_capture_untrusted(data).keylog in {b"", data}
