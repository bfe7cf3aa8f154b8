"""`ktls-agent status`: what a running agent has done, as a table."""

import http.client
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .main import CONTEXT, DISTRIBUTION

if TYPE_CHECKING:
    from rich.console import Group

DEFAULT_SOCKET: Final = Path("/run/ktls-agent/status.sock")
"""Where the systemd unit's RuntimeDirectory would have it."""

MAX_STATUS_BYTES: Final = 1 << 20
"""A status has a few kilobytes: its lists are bounded."""

PATIENCE: Final = 5.0
WATCH_SECONDS: Final = 1.0


@click.command(context_settings=CONTEXT)
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_SOCKET,
    show_default=True,
    metavar="PATH",
    help="What `run --status-socket` was given.",
)
@click.option("--watch", is_flag=True, help="Show it every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Write it as JSON.")
def status(*, path: Path, watch: bool, as_json: bool) -> None:
    """Show what a running agent does: requests by outcome, durations, certificates, the last failures.

    Exit status: 0; 1 without the extra `tools`, which the table needs; 69 if no agent answers.
    """
    if as_json:
        click.echo(json.dumps(_fetch(path), indent=2))
        return
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.live import Live  # noqa: PLC0415
    except ImportError:
        click.echo(
            f"{DISTRIBUTION}: The table needs the extra `tools`: pip install 'ktls-agent[tools]'.", err=True
        )
        sys.exit(1)
    console = Console()
    if not watch:
        console.print(_table(_fetch(path)))
        return
    with Live(_table(_fetch(path)), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(_table(_fetch(path)), refresh=True)
        except KeyboardInterrupt:
            pass


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def _fetch(path: Path) -> dict[str, Any]:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/status")
        told = json.loads(connection.getresponse().read(MAX_STATUS_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = getattr(error, "strerror", None) or "the answer is no status"
        click.echo(
            f"{DISTRIBUTION}: No agent tells its status at {path}: {said}. See run --status-socket.", err=True
        )
        sys.exit(os.EX_UNAVAILABLE)
    finally:
        connection.close()
    return dict(told)


def _table(told: dict[str, Any]) -> "Group":
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    head = (
        f"ktls-agent {told['version']}, process {told['pid']}, up {told['uptime_seconds']:.0f} s; {told['in_flight']} under "
        f"way; reloads: {told['reloads']['ok']} ok, {told['reloads']['failed']} failed; "
        f"{told['recordings_dropped']} recordings dropped"
    )
    return Group(
        Text(head),
        _rows("requests", ("role", "auth", "status", "cause", "count"), told["requests"]),
        _rows("mean duration, ms", ("handshake", "install", "done", "total"), [told["mean_ms"]]),
        _rows("certificates", ("role", "subject", "expires"), told["certificates"]),
        _rows("last failures", ("role", "peer", "address", "cause", "reason"), told["last_failures"]),
    )


def _rows(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    from ktls_agent.io_trio.log import printable  # noqa: PLC0415 - see cli.main

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        values = (row.get(column) for column in columns)
        # As text, since a peer's name may look like markup.
        table.add_row(*(Text("" if value is None else printable(value)) for value in values))
    return table
