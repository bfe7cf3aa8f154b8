"""python -m fuzz.cover TARGET|-: which lines of sansio/ a target's inputs reach, as JSON on standard output.

Every input that there is runs once (seeds, committed and working corpus, regressions) under coverage.py, in a process
of its own, without atheris.  "-" only imports what the targets import: those lines are reached by any input.
"""

import json
import sys
from pathlib import Path
from typing import Final

import coverage

from . import corpora

SANSIO: Final = Path(__file__).parent.parent / "sansio"


def _run(target: str) -> None:
    from .targets import TARGETS  # noqa: PLC0415 - under coverage from its first line

    if target == "-":
        return
    chosen = TARGETS[target]
    inputs = {
        *chosen.seeds(),
        *corpora.committed(target),
        *corpora.contents(corpora.WORKING / target).values(),
        *corpora.regressions(target).values(),
    }
    for data in sorted(inputs):
        chosen.run(data)


def measure(target: str) -> dict[str, tuple[list[int], list[int]]]:
    """By file: the lines that are statements, and those of them that ran."""
    measured = coverage.Coverage(data_file=None, source_dirs=[str(SANSIO)], config_file=False)
    measured.start()
    _run(target)
    measured.stop()
    found = {}
    for path in sorted(SANSIO.rglob("*.py")):
        _, statements, _, missing, _ = measured.analysis2(str(path))
        found[str(path.relative_to(SANSIO))] = (statements, sorted(set(statements) - set(missing)))
    return found


if __name__ == "__main__":
    json.dump(measure(sys.argv[1]), sys.stdout)
