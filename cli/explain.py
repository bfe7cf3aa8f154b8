"""`ktls-agent explain`: what happened to a recorded request."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from .main import CONTEXT, DISTRIBUTION


@click.command(context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; docs/explain.md names the keys.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PAGE",
    help="Write one self-contained HTML page instead; an existing file is overwritten.",
)
def explain(file: Path, as_json: bool, page: Path | None) -> None:  # noqa: FBT001 - click passes it by name
    """Explain a recorded request: what was said, how it ended, and what to do about a failure.

    FILE is a transcript, as `ktls-agent run --record` writes it; - is standard input.

    Exit status: 0 if it could be explained, however the handshake ended; 65 if FILE is no transcript; 66 if it can't
    be read; 73 if PAGE can't be written.
    """
    from ktls_agent.sansio.capture.explain import explain as explain_transcript  # noqa: PLC0415 - see cli.main
    from ktls_agent.sansio.capture.explanation import encode_explanation  # noqa: PLC0415
    from ktls_agent.sansio.capture.transcript import TranscriptError, decode_transcript_untrusted  # noqa: PLC0415

    name = "standard input" if file == Path("-") else str(file)
    try:
        explanation = explain_transcript(decode_transcript_untrusted(_read(file)))
    except OSError as error:
        _stop(f"{name} can't be read: {error.strerror}.", os.EX_NOINPUT)
    except TranscriptError as error:
        _stop(f"{name} can't be explained. {error}", os.EX_DATAERR)
    if page is not None:
        from .page import render_page  # noqa: PLC0415

        _write(page, render_page(explanation))
    if as_json:
        click.echo(encode_explanation(explanation))
    elif page is None:
        from .explain_text import render_text  # noqa: PLC0415

        click.echo(render_text(explanation), nl=False)


def _read(file: Path) -> bytes:
    """Read what may be a transcript, and a byte more than the largest has: enough to refuse it."""
    from ktls_agent.sansio.capture.transcript import MAX_TRANSCRIPT_BYTES  # noqa: PLC0415 - see cli.main

    with click.open_file(str(file), "rb") as source:
        data: bytes = source.read(MAX_TRANSCRIPT_BYTES + 1)
    return data


def _write(page: Path, html: str) -> None:
    try:
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        _stop(f"{page} can't be written: {error.strerror}.", os.EX_CANTCREAT)


def _stop(sentence: str, code: int) -> NoReturn:
    click.echo(f"{DISTRIBUTION}: {sentence}", err=True)
    sys.exit(code)
