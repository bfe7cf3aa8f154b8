"""`ktls-agent replay`: run a recorded request through the core again."""

import os
import sys
from pathlib import Path

import click

from .files import read_input
from .main import CONTEXT


@click.command(context_settings=CONTEXT)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
def replay(files: tuple[Path, ...]) -> None:
    """Run recorded requests through the agent's core again, and compare all that comes out.

    FILE is a transcript that `ktls-agent run --record` wrote. Exit status: 0 if everything came out as recorded; 1 if
    something differs; 65 if a file is no transcript; 66 if it can't be read.
    """
    sys.exit(max(_replay_one(path) for path in files))


def _replay_one(path: Path) -> int:
    from ktls_agent.sansio.capture import differences, transcript  # noqa: PLC0415 - see cli.main
    from ktls_agent.sansio.capture.replay import replay as run_again  # noqa: PLC0415

    data = read_input(path, transcript.MAX_TRANSCRIPT_BYTES)
    if data is None:
        return os.EX_NOINPUT
    try:
        recorded = transcript.decode_transcript_untrusted(data)
    except transcript.TranscriptError as error:
        click.echo(f"{path}: {error}", err=True)
        return os.EX_DATAERR
    result = run_again(recorded)
    for line in differences.describe_replay(recorded, result):
        click.echo(f"{path}: {line}")
    return 0 if result.identical else 1
