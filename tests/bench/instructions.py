"""Counts the instructions of one of the engine's handshakes: the same number on a busy machine as on an idle one.

A process that shakes hands often minus one that does so a few times: what is left belongs to the handshakes.  `perf`
counts where the machine lets it, else valgrind's callgrind does, under which Python takes about a minute for each case.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from tests.bench.ends import CASES
from tests.bench.measure import one_round

_FEW: Final = 5
_MANY: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A program that counts another's instructions.

    Attributes:
        name: What to call it.
        command: What to put before the other's command.
        count: Finds the number in what it writes to standard error.
    """

    name: str
    command: tuple[str, ...]
    count: re.Pattern[str]


_PERF: Final = Counter(
    name="perf",
    command=("perf", "stat", "-x,", "-e", "instructions:u"),
    count=re.compile(r"^(\d+),.*instructions", re.MULTILINE),
)
_CALLGRIND: Final = Counter(
    name="callgrind",
    command=("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
    count=re.compile(r"Collected : (\d+)"),
)


def find_counter() -> Counter | None:
    """The first that is installed and works here."""
    for counter in (_PERF, _CALLGRIND):
        if shutil.which(counter.command[0]) and _run(counter, [sys.executable, "-c", ""]) is not None:
            return counter
    return None


COUNTED: Final = tuple(name for name in CASES if "RSA" not in name)
"""Making an RSA key takes another number of instructions in each process, which hides those of the handshakes."""


def instructions_of(counter: Counter, name: str) -> int:
    """The instructions of one handshake, both ends, of the case with that name."""
    few, many = (_run(counter, _command(name, times)) for times in (_FEW, _MANY))
    if few is None or many is None:
        raise RuntimeError(f"{counter.name} counted nothing")
    return (many - few) // (_MANY - _FEW)


def _command(name: str, times: int) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "tests.bench.instructions", name, str(times)]


def _run(counter: Counter, command: list[str]) -> int | None:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*counter.command, *command], env=environment, capture_output=True, text=True, check=False
    )
    found = counter.count.search(done.stderr)
    return None if done.returncode or found is None else int(found[1])


if __name__ == "__main__":
    one_round(CASES[sys.argv[1]]().ours, int(sys.argv[2]))
