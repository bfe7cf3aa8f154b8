"""python -m fuzz.worker TARGET [LIBFUZZER OPTIONS] [CORPUS ...]: one target in this process."""

import importlib
import sys

atheris = importlib.import_module("atheris")  # an extra, so the type checkers can't count on it

with atheris.instrument_imports(include=["ktls_agent"]):
    from .targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
