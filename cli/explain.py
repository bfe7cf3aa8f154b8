"""`ktls-agent explain`: what happened to a recorded request."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from .files import read_input
from .main import CONTEXT


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
    from ktls_agent.sansio.capture import transcript  # noqa: PLC0415 - see cli.main
    from ktls_agent.sansio.capture.explain import explain as explain_transcript  # noqa: PLC0415
    from ktls_agent.sansio.capture.explanation import encode_explanation  # noqa: PLC0415

    data = read_input(file, transcript.MAX_TRANSCRIPT_BYTES)
    if data is None:
        sys.exit(os.EX_NOINPUT)
    try:
        explanation = explain_transcript(transcript.decode_transcript_untrusted(data))
    except transcript.TranscriptError as error:
        _stop(f"{file}: {error}", os.EX_DATAERR)
    if page is not None:
        from .page import render_page  # noqa: PLC0415

        _write(page, render_page(explanation))
    if as_json:
        click.echo(encode_explanation(explanation))
    elif page is None:
        from .explain_text import render_text  # noqa: PLC0415

        click.echo(render_text(explanation), nl=False)


def _write(page: Path, html: str) -> None:
    try:
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        _stop(f"{page}: It can't be written: {error.strerror}.", os.EX_CANTCREAT)


def _stop(sentence: str, code: int) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(code)
