"""Inputs on disk.

    fuzz/corpora/TARGET.txt          committed: the minimised corpus, one input a line, base64
    fuzz/regressions/TARGET/NAME     committed: what once broke an invariant, named after what it found
    fuzz/corpus/TARGET/              the fuzzer's working folder, one input a file; not committed
    fuzz/crashes/TARGET/             what broke an invariant in this checkout; not committed

One file holds a target's corpus, since hundreds of small ones would bury everything else in a diff.
"""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
CORPORA: Final = _HERE / "corpora"
REGRESSIONS: Final = _HERE / "regressions"
WORKING: Final = _HERE / "corpus"
CRASHES: Final = _HERE / "crashes"


def committed(target: str) -> list[bytes]:
    """A target's minimised corpus."""
    path = CORPORA / f"{target}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [base64.b64decode(line) for line in lines]


def commit(target: str, inputs: Iterable[bytes]) -> None:
    """Put other inputs in the place of a target's corpus; short ones first, for readable diffs."""
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    CORPORA.mkdir(exist_ok=True)
    lines = [base64.b64encode(data).decode() + "\n" for data in ordered]
    (CORPORA / f"{target}.txt").write_text("".join(lines), encoding="ascii")


def regressions(target: str) -> dict[str, bytes]:
    """What once broke the target, by the name of what it found."""
    return contents(REGRESSIONS / target)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder that need not exist, by name."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in files}


def unpack(inputs: Iterable[bytes], folder: Path) -> None:
    """Write each input into a file that is named after its content, as libFuzzer does."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
