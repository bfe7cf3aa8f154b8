"""python -m fuzz SECONDS [TARGET ...]: run the targets under atheris, one process each, one after the other."""

import subprocess
import sys
import tempfile
from pathlib import Path

from .seeds import seeds
from .targets import TARGETS

_CORPUS = Path(__file__).parent / "corpus"


def _run(name: str, seconds: int) -> int:
    corpus = _CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        options = (f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=1024")
        command = (
            sys.executable,
            "-m",
            "fuzz.worker",
            name,
            *options,
            "-print_final_stats=1",
            corpus,
            folder,
        )
        return subprocess.run(command, check=False).returncode


def main() -> int:
    """Run what the command line names; the exit status is 1 if an invariant broke."""
    seconds, names = int(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    broken = [name for name in names if _run(name, max(1, seconds // len(names))) != 0]
    print(f"{len(names) - len(broken)} targets held, {len(broken)} broke {' '.join(broken)}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
