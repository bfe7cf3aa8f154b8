"""Cuts a PEM file into its blocks, in time that is linear in its length (RFC 7468).

Text outside the blocks is commentary and is passed over.  A block without an end line is passed over too: it is
cut off where the next one begins, so that one broken entry does not hide those that follow it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class PemBlock:
    """One block of a PEM file.

    Attributes:
        label: What its begin line says, such as "CERTIFICATE".
        line: The number of its begin line, from 1.
        text: The block from its begin line to its end line.  It may hold a private key: not shown by repr.
    """

    label: str
    line: int
    text: bytes

    def __repr__(self) -> str:
        return f"PemBlock(label={self.label!r}, line={self.line})"


def pem_blocks(data: bytes) -> Iterator[PemBlock]:
    """Yield the complete blocks of a PEM file in their order."""
    begins = list(_BEGIN.finditer(data))
    line, counted = 1, 0
    for index, begin in enumerate(begins):
        line += data.count(b"\n", counted, begin.start())
        counted = begin.start()
        limit = begins[index + 1].start() if index + 1 < len(begins) else len(data)
        end_line = b"-----END " + begin[1] + b"-----"
        end = data.find(end_line, begin.end(), limit)
        if end >= 0:
            text = data[begin.start() : end + len(end_line)] + b"\n"
            yield PemBlock(label=begin[1].decode("ascii"), line=line, text=text)
