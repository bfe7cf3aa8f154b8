"""The framing of capture files: what they are, whether they are whole, and the secrets in them.

A library reads the packets (see `ktls_agent.io_trio.captures`).  What it does not tell is whether the file was cut off,
and where the text of a pcapng file's Decryption Secrets Blocks is.  So the records of a pcap file and the blocks of a
pcapng file are walked here, by their lengths alone.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .pcapng import BYTE_ORDER_MAGIC, DECRYPTION_SECRETS_BLOCK, SECTION_HEADER_BLOCK, TLS_KEY_LOG

_PCAPNG_MAGIC: Final = SECTION_HEADER_BLOCK.to_bytes(4)
_PCAP_MAGICS: Final = {  # byte order by magic: microseconds, nanoseconds
    bytes.fromhex("a1b2c3d4"): ">",
    bytes.fromhex("a1b23c4d"): ">",
    bytes.fromhex("d4c3b2a1"): "<",
    bytes.fromhex("4d3cb2a1"): "<",
}
_PCAP_HEADER: Final = 24
_PCAP_RECORD: Final = 16


class CaptureError(Exception):
    """A file is no capture that can be read; the text is a sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What a capture file is made of.

    Attributes:
        keylog: The text of the TLS key logs in it.
        cut: Why it is not whole, as a sentence; None if it is.
    """

    keylog: bytes = field(default=b"", repr=False)
    cut: str | None = None


def is_capture(start: bytes) -> bool:
    """Does a file that starts with these bytes (four are enough) claim to be a pcap or pcapng file?"""
    return start[:4] == _PCAPNG_MAGIC or start[:4] in _PCAP_MAGICS


def inspect_capture_untrusted(data: bytes) -> Framing:
    """Walk a capture file.

    Args:
        data: The whole file, any bytes.

    Raises:
        CaptureError: It is neither pcap nor pcapng.
    """
    if not is_capture(data):
        raise CaptureError("It is neither a pcap nor a pcapng file.")
    if data[:4] == _PCAPNG_MAGIC:
        return _inspect_pcapng(data)
    return Framing(cut=_walk_pcap(data, _PCAP_MAGICS[data[:4]]))


def _walk_pcap(data: bytes, order: str) -> str | None:
    offset = _PCAP_HEADER
    while offset + _PCAP_RECORD <= len(data):
        (length,) = struct.unpack_from(f"{order}I", data, offset + 8)
        offset += _PCAP_RECORD + length
    return None if offset == len(data) else f"The file is cut off in a packet at its end, byte {len(data)}."


def _inspect_pcapng(data: bytes) -> Framing:
    keylog = bytearray()
    try:
        for order, block_type, body in _blocks(data):
            if block_type == DECRYPTION_SECRETS_BLOCK:
                keylog += _keylog(order, body)
    except CaptureError as error:
        return Framing(keylog=bytes(keylog), cut=str(error))
    return Framing(keylog=bytes(keylog))


def _blocks(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield byte order, type and body of each block.

    Raises:
        CaptureError: A block's length is wrong, or the file ends within one.
    """
    order, offset = "<", 0
    while offset < len(data):
        if data[offset : offset + 4] == _PCAPNG_MAGIC:
            order = _byte_order(data[offset + 8 : offset + 12])
        if len(data) - offset < 12:
            raise CaptureError(f"The file is cut off in a block at byte {offset}.")
        block_type, length = struct.unpack_from(f"{order}II", data, offset)
        if length < 12 or length % 4:
            raise CaptureError(f"The block at byte {offset} has the wrong length {length}.")
        if length > len(data) - offset:
            raise CaptureError(f"The file is cut off in a block at byte {offset}.")
        yield order, block_type, data[offset + 8 : offset + length - 4]
        offset += length


def _byte_order(magic: bytes) -> str:
    return ">" if magic == BYTE_ORDER_MAGIC.to_bytes(4) else "<"


def _keylog(order: str, body: bytes) -> bytes:
    if len(body) < 8:
        return b""
    kind, length = struct.unpack_from(f"{order}II", body)
    return body[8 : 8 + length] + b"\n" if kind == TLS_KEY_LOG else b""
