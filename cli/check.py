"""`ktls-agent check`: what stands in the way of the agent on this machine."""

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .main import CONTEXT

if TYPE_CHECKING:
    from ktls_agent.sansio.findings import Finding

WIDTH: Final = 100

_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(context_settings=CONTEXT)
@click.option(
    "-c",
    "--config",
    "configuration_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this configuration instead of /etc/tlshd.conf or /etc/tlshd/config.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Leave out what is well.")
def check(*, configuration_file: Path | None, as_json: bool, quiet: bool) -> None:
    """Check this machine: kernel, privileges, configuration, certificates, keyrings.

    Nothing is changed. Run it as root to see what the agent will see. Exit status: 0 if all is well, 1 with warnings, 2
    with errors.
    """
    from ktls_agent.io_trio.check import check_machine  # noqa: PLC0415 - see cli.main
    from ktls_agent.sansio.findings import Level, exit_code  # noqa: PLC0415

    findings = check_machine(configuration_file)
    shown = [finding for finding in findings if not (quiet and finding.level is Level.OK)]
    if as_json:
        click.echo(json.dumps([_as_object(finding) for finding in shown], indent=2))
    else:
        for finding in shown:
            click.echo(_as_text(finding))
    sys.exit(exit_code(findings))


def _as_object(finding: "Finding") -> dict[str, str]:
    return {
        "level": finding.level.value,
        "subject": finding.subject,
        "text": finding.text,
        "advice": finding.advice,
    }


def _as_text(finding: "Finding") -> str:
    level = click.style(f"{finding.level.value:<8}", fg=_COLOURS[finding.level.value], bold=True)
    lines = _wrapped(f"{finding.subject}: {finding.text}")
    if finding.advice:
        lines += _wrapped(f"-> {finding.advice}")
    return level + "\n        ".join(lines)


def _wrapped(text: str) -> list[str]:
    # click.echo drops the colours where they are not wanted; a path or a name is never broken.
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
