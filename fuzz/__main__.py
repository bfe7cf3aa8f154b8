"""python -m fuzz run SECONDS [TARGET ...] | replay TARGET FILE ... | minimise [TARGET ...] | list."""

import argparse
import sys
from pathlib import Path

from . import runner
from .targets import TARGETS


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Fuzz targets; docs/fuzzing.md tells more."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run targets under atheris, one after the other")
    run.add_argument("seconds", type=int, help="for all of them together")
    replay = commands.add_parser("replay", help="run inputs once, without atheris")
    replay.add_argument("target", choices=TARGETS)
    replay.add_argument("files", nargs="+", type=Path, metavar="FILE")
    minimise = commands.add_parser(
        "minimise", help="rewrite the committed corpora from all inputs that there are"
    )
    for command in (run, minimise):
        command.add_argument(
            "targets", nargs="*", metavar="TARGET", help="all of them, unless some are named"
        )
    commands.add_parser("list", help="list the targets")
    return parser


def main() -> int:
    """Do what the command line says; the exit status is 1 if an invariant broke."""
    parser = _arguments()
    arguments = parser.parse_args()
    names = getattr(arguments, "targets", None) or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    match arguments.command:
        case "run":
            return runner.fuzz(names, arguments.seconds)
        case "replay":
            return runner.replay(arguments.target, arguments.files)
        case "minimise":
            return runner.minimise(names)
        case _:
            for name, target in TARGETS.items():
                print(f"{name:<20}{target.run.__doc__}")
            return 0


if __name__ == "__main__":
    sys.exit(main())
