"""Runs targets: under atheris for a time, once for an input that broke one, and to minimise their corpora.

One process at a time, so that the numbers compare.  libFuzzer ends a process at the first input that breaks an
invariant; the target's other time is not given to anyone.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import corpora
from .target import Target
from .targets import TARGETS

MEMORY_MB: Final = 512
"""An input of at most 8 KiB that needs more than this is a finding."""

INPUT_SECONDS: Final = 10
"""An input that takes longer is a finding; they take milliseconds."""

_STATISTIC: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_Lines = set[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of fuzzing a target.

    Attributes:
        name: The target's.
        seconds: How long it ran.
        executions: How often, starting with the inputs that were there.
        new: How many inputs the working corpus won.
        crashes: Files with inputs that broke an invariant, new in this run.
        failed: Whether the process ended in an error, with or without such a file.
    """

    name: str
    seconds: float
    executions: int
    new: int
    crashes: tuple[Path, ...]
    failed: bool


def fuzz(names: Sequence[str], seconds: int) -> int:
    """Run targets for so many seconds in all, and print a table; the exit status is 1 if one broke."""
    total = sum(TARGETS[name].weight for name in names)
    results = []
    for name in names:
        share = max(1, seconds * TARGETS[name].weight // total)
        print(f"-- {name} for {share} s: {TARGETS[name].run.__doc__}", flush=True)
        results.append(_fuzz(TARGETS[name], share))
    _print_table(results)
    broken = [result for result in results if result.failed]
    for result in broken:
        for crash in result.crashes:
            print(f"{result.name} broke; to see how: python -m fuzz replay {result.name} {crash}")
        if not result.crashes:
            print(f"{result.name} ended in an error and left no input; its output is above")
    return bool(broken)


def _fuzz(target: Target, seconds: int) -> Result:
    working, crashes = corpora.WORKING / target.name, corpora.CRASHES / target.name
    crashes.mkdir(parents=True, exist_ok=True)
    corpora.unpack(_known(target), working)
    inputs, found = set(corpora.contents(working)), set(crashes.iterdir())
    started = time.monotonic()
    code, output = _worker(
        target, f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={crashes}/", working
    )
    statistics = dict(_STATISTIC.findall(output))
    if code:
        print(output[-4000:])
    return Result(
        name=target.name,
        seconds=time.monotonic() - started,
        executions=int(statistics.get("number_of_executed_units", 0)),
        new=len(set(corpora.contents(working)) - inputs),
        crashes=tuple(sorted(set(crashes.iterdir()) - found)),
        failed=code != 0,
    )


def _known(target: Target) -> list[bytes]:
    return [*target.seeds(), *corpora.committed(target.name), *corpora.regressions(target.name).values()]


def _worker(target: Target, *arguments: str | Path) -> tuple[int, str]:
    command = (
        sys.executable,
        "-m",
        "fuzz.worker",
        target.name,
        f"-max_len={target.max_length}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        *arguments,
    )
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def replay(name: str, files: Sequence[Path]) -> int:
    """Run inputs once, without atheris: the one that breaks an invariant gives a traceback."""
    for path in files:
        TARGETS[name].run(path.read_bytes())
        print(f"{path}: {name} holds")
    return 0


def minimise(names: Sequence[str]) -> int:
    """Put the smallest inputs that together reach as much as all of them into the committed corpora."""
    status = 0
    for name in names:
        target, before = TARGETS[name], corpora.committed(name)
        with tempfile.TemporaryDirectory() as folder:
            merged, known = Path(folder) / "merged", Path(folder) / "known"
            merged.mkdir()
            corpora.unpack(_known(target), known)
            working = corpora.WORKING / name
            working.mkdir(parents=True, exist_ok=True)
            code, output = _worker(
                target, "-merge=1", f"-use_counters={int(not target.edges_only)}", merged, known, working
            )
            kept = corpora.contents(merged).values()
        if code or not kept:
            print(output[-4000:])
            status = 1
            continue
        chosen = _spread(kept, target.keep)
        corpora.commit(name, chosen)
        print(f"{name}: {len(before)} inputs before, {len(chosen)} now, {sum(map(len, chosen))} bytes")
    return status


def _spread(inputs: Iterable[bytes], count: int) -> list[bytes]:
    """So many inputs at most, short and long ones: the long ones go deeper."""
    ordered = sorted(inputs, key=lambda data: (len(data), data))
    if len(ordered) <= count:
        return ordered
    return [ordered[number * len(ordered) // count] for number in range(count)]


# The table


def _print_table(results: Sequence[Result]) -> None:
    base, statements = _lines("-")
    reached = base
    print(f"\n{'target':<20}{'executions':>12}{'a second':>10}{'sansio/':>9}{'new':>6}{'crashes':>9}")
    for result in results:
        lines, _ = _lines(result.name)
        reached = reached | lines
        rate = result.executions / max(result.seconds, 1e-9)
        print(
            f"{result.name:<20}{result.executions:>12}{rate:>10.0f}{_percent(lines, statements):>9}"
            f"{result.new:>6}{len(result.crashes):>9}"
        )
    executions = sum(result.executions for result in results)
    print(f"{'all':<20}{executions:>12}{'':>10}{_percent(reached, statements):>9}")
    print(
        f"\nsansio/: lines that all inputs of a target reach together, of {len(statements)} statements, measured by"
        f"\ncoverage.py after fuzzing; {_percent(base, statements).strip()} of them run when the modules are imported."
    )


def _percent(lines: _Lines, statements: _Lines) -> str:
    return f"{100 * len(lines) / len(statements):.1f} %"


def _lines(target: str) -> tuple[_Lines, _Lines]:
    """The lines that ran, and all lines."""
    command = (sys.executable, "-m", "fuzz.cover", target)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:  # what broke has been told
        return set(), set()
    found = json.loads(done.stdout)
    reached = {(path, line) for path, (_, ran) in found.items() for line in ran}
    return reached, {(path, line) for path, (statements, _) in found.items() for line in statements}
