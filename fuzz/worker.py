"""python -m fuzz.worker TARGET [LIBFUZZER OPTIONS] [FOLDER ...]: one target under atheris, in this process."""

import importlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from .mutators import Mutator

atheris = importlib.import_module("atheris")  # an extra, so the type checkers can't count on it

# tlslite-ng too: which message its state machine is in is what the fuzzer has to find its way by.
with atheris.instrument_imports(include=["ktls_agent", "tlslite"]):
    from .targets import TARGETS


def _hooks(mutator: Mutator | None) -> dict[str, Callable[..., bytes]]:
    """What atheris calls instead of libFuzzer's own mutations."""
    if mutator is None:
        return {}

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        return mutator.mutate(data, limit, seed, _scramble)

    return {"custom_mutator": mutate, "custom_crossover": mutator.cross}


def _scramble(data: bytes, limit: int) -> bytes:
    changed: Any = atheris.Mutate(data, max(1, limit))
    return bytes(changed)


if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    # libFuzzer runs its first argument again, in a shell, where it minimises.
    again = shlex.join([sys.executable, "-m", "fuzz.worker", target.name])
    atheris.Setup([again, *sys.argv[2:]], target.run, **_hooks(target.mutator))
    atheris.Fuzz()
