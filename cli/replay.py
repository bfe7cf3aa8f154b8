"""`ktls-agent replay`: run a recorded request through the core again, or check what others captured."""

import os
import sys
from pathlib import Path

import click

from .files import read_input
from .main import CONTEXT


@click.command(context_settings=CONTEXT)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--keylog",
    "keylogs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Read the secrets of a capture's handshakes from this file, as SSLKEYLOGFILE makes it; may be repeated.",
)
def replay(files: tuple[Path, ...], keylogs: tuple[Path, ...]) -> None:
    """Run recorded requests through the agent's core again, and compare all that comes out.

    FILE is a transcript that `ktls-agent run --record` wrote, or a pcap or pcapng file that anybody captured: of TCP, of
    netlink (nlmon), or both in several files. What is in a capture is decrypted, if there are keys, and checked.

    Exit status: 0 if everything came out as recorded and all that could be checked is right; 1 if not; 65 if a file is
    neither; 66 if it can't be read; 69 if a library for captures is missing.
    """
    from .foreign import describe_foreign  # noqa: PLC0415 - see cli.main

    captures = [path for path in files if _is_capture(path)]
    codes = [_replay_one(path) for path in files if path not in captures]
    if captures:
        codes.append(describe_foreign(captures, keylogs, write=click.echo, complain=_complain))
    elif keylogs:
        raise click.UsageError("--keylog goes with captures; a transcript has its own keys.")
    sys.exit(max(codes))


def _complain(text: str) -> None:
    click.echo(text, err=True)


def _is_capture(path: Path) -> bool:
    """Does it begin as a capture does?  What can't be read is said by who wants to read it all."""
    from ktls_agent.sansio.capture import framing  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            return framing.is_capture(file.read(4))
    except OSError:
        return False


def _replay_one(path: Path) -> int:
    from ktls_agent.sansio.capture import differences, transcript  # noqa: PLC0415 - see cli.main
    from ktls_agent.sansio.capture.replay import replay as run_again  # noqa: PLC0415

    data = read_input(path, transcript.MAX_TRANSCRIPT_BYTES)
    if data is None:
        return os.EX_NOINPUT
    try:
        recorded = transcript.decode_transcript_untrusted(data)
    except transcript.TranscriptError as error:
        _complain(f"{path}: {error}")
        return os.EX_DATAERR
    result = run_again(recorded)
    for line in differences.describe_replay(recorded, result):
        click.echo(f"{path}: {line}")
    return 0 if result.identical else 1
