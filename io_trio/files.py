"""Reads the configured files, and judges who else may read or write them.

What is judged is the open file, not its name, which may lead to another one a moment later.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITERS: Final = stat.S_IWGRP | stat.S_IWOTH


class FileUnreadable(Exception):  # noqa: N818 - a verdict
    """A file can't be read; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredFile:
    """A file that was read.

    Attributes:
        path: Its name.
        what: What it is, for a sentence.
        data: What is in it.
        mode: Its permission bits.
        owner: Its owner's number.
    """

    path: Path
    what: str
    data: bytes = field(repr=False)
    mode: int
    owner: int

    def exposure(self, own: int) -> str | None:
        """Say who else may have a private key; None if nobody.

        Args:
            own: The user number of this process.
        """
        if self.owner not in (0, own):
            return (
                f"The {self.what} {self.path} belongs to the user {self.owner}, who may read and change it."
            )
        if self.mode & _OTHERS:
            return f"The {self.what} {self.path} has mode {self.mode:04o}: other users may read or change it."
        return None

    def openness(self, own: int) -> str | None:
        """Say who else may change the file; None if nobody.

        Args:
            own: The user number of this process.
        """
        if self.owner not in (0, own):
            return f"The {self.what} {self.path} belongs to the user {self.owner}, who may change it."
        if self.mode & _WRITERS:
            return f"The {self.what} {self.path} has mode {self.mode:04o}: other users may change it; use chmod go-w."
        return None


def read_file(path: Path, what: str, limit: int) -> ConfiguredFile:
    """Read a file, one byte beyond its limit at most: whoever parses it then says that it is too big.

    Args:
        path: The file.
        what: What it is, for a sentence.
        limit: In bytes.

    Raises:
        FileUnreadable: It can't be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(limit + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise FileUnreadable(f"The {what} {path} can't be read: {reason}.") from None
    return ConfiguredFile(
        path=path, what=what, data=data, mode=stat.S_IMODE(status.st_mode), owner=status.st_uid
    )
