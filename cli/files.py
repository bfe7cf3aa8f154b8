"""Files that a command is given."""

import sys
from pathlib import Path

import click


def read_input(path: Path, limit: int) -> bytes | None:
    """Read a file, or standard input for "-"; one byte beyond the limit at most, so that it is seen to be too large.

    Args:
        path: The file.
        limit: In bytes.

    Returns:
        What is in it; None, and a line on standard error, if it can't be read.
    """
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(limit + 1)
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        click.echo(f"{path}: It can't be read: {error.strerror}.", err=True)
        return None
