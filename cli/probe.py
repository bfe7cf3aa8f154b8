"""`ktls-agent probe`: what a server's TLS looks like, and whether this machine would accept it."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .files import read_input
from .main import CONTEXT, DISTRIBUTION

if TYPE_CHECKING:
    from ktls_agent.sansio.probe import Target
    from ktls_agent.sansio.tls.parameters import PreSharedKey

MAX_KEY_FILE: Final = 4096
"""Bytes of a file with a pre-shared key in hexadecimal: a key has 32 or 48."""


@click.command(context_settings=CONTEXT)
@click.argument("server", metavar="HOST[:PORT]")
@click.option("--nfs", "mode", flag_value="nfs", help="NFS over TLS: RPC, then STARTTLS (port 2049).")
@click.option(
    "--nvme", "mode", flag_value="nvme", help="NVMe/TCP over TLS, with a pre-shared key (port 4420)."
)
@click.option("--tls", "mode", flag_value="tls", help="TLS from the first byte (port 443).")
@click.option(
    "-c",
    "--config",
    "configuration_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use this configuration instead of /etc/tlshd.conf or /etc/tlshd/config.",
)
@click.option("--psk-identity", metavar="TEXT", help="Offer the pre-shared key of this identity.")
@click.option(
    "--psk-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key itself, in hexadecimal as `keyctl print` shows it.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def probe(
    *,
    server: str,
    mode: str | None,
    configuration_file: Path | None,
    psk_identity: str | None,
    psk_file: Path | None,
    as_json: bool,
) -> None:
    """Look at a server's TLS from here, without the kernel.

    The handshake is the agent's own, with the client's certificate and trust store of this machine's configuration.
    Without an option the port decides what is spoken, and NFS is without a port. Exit status: 0 if server and machine
    accept each other; 1 if not; 2 if the server can't be reached or does not speak TLS; 78 if the configuration can't be
    used.
    """
    from ktls_agent.sansio.probe import Mode, TargetError, make_psk, parse_target  # noqa: PLC0415 - see cli.main

    if (psk_identity is None) != (psk_file is None):
        raise click.UsageError("--psk-identity and --psk-file go together.")
    try:
        target = parse_target(server, None if mode is None else Mode(mode))
        psk = (
            None if psk_identity is None or psk_file is None else make_psk(psk_identity, _key_text(psk_file))
        )
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    _run(target, psk, configuration_file, as_json=as_json)


def _key_text(path: Path) -> str:
    data = read_input(path, MAX_KEY_FILE)
    if data is None:
        sys.exit(os.EX_NOINPUT)
    return data.decode(errors="replace")


def _run(
    target: "Target", psk: "PreSharedKey | None", configuration_file: Path | None, *, as_json: bool
) -> None:
    from functools import partial  # noqa: PLC0415 - see cli.main

    import trio  # noqa: PLC0415

    from ktls_agent.io_trio.credentials import (  # noqa: PLC0415
        ConfigurationUnusable,
        find_configuration,
        load_credentials,
    )
    from ktls_agent.io_trio.handler import wall_clock  # noqa: PLC0415
    from ktls_agent.io_trio.probe import probe as run_probe  # noqa: PLC0415
    from ktls_agent.sansio.probe import report_object  # noqa: PLC0415

    try:
        credentials = load_credentials(find_configuration(configuration_file))
    except ConfigurationUnusable as error:
        click.echo(f"{DISTRIBUTION}: {error}", err=True)
        sys.exit(os.EX_CONFIG)
    now = wall_clock()
    report = trio.run(partial(run_probe, target, credentials, now=now, psk=psk))
    told = report_object(report, now)
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(_lines(told)))
    sys.exit(report.exit_code)


def _lines(told: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Write an object as lines of names and values; what is not known is left out."""
    for name, value in told.items():
        label = f"{indent}{name.replace('_', ' ')}"
        match value:
            case None:
                continue
            case dict():
                yield f"{label}:"
                yield from _lines(value, f"{indent}  ")
            case list() if name == "certificates":
                for number, item in enumerate(value, 1):
                    yield f"certificate {number} of {len(value)}:"
                    yield from _lines(item, "  ")
            case list():
                yield f"{label:<22} {', '.join(map(str, value)) or 'none'}"
            case bool():
                yield f"{label:<22} {'yes' if value else 'no'}"
            case _:
                yield f"{label:<22} {value}"
