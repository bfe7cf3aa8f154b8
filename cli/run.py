"""`ktls-agent run`: the daemon, with tlshd's options."""

import sys
from pathlib import Path

import click

from .main import CONTEXT, DISTRIBUTION, version_option


@click.command(context_settings=CONTEXT)
@click.option(
    "-c",
    "--config",
    "configuration_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read this configuration instead of /etc/tlshd.conf or /etc/tlshd/config.",
)
@click.option("-s", "--stderr", "to_stderr", is_flag=True, help="Log to standard error instead of syslog.")
def run(configuration_file: Path | None, to_stderr: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Serve the kernel's handshake requests until SIGTERM; SIGHUP reloads the configuration.

    Exit status: 0 after SIGTERM or SIGINT; 69 if the kernel has no handshake service; 71 if netlink fails; 77 without the
    privilege (CAP_NET_ADMIN); 78 if the configuration can't be used.
    """
    from ktls_agent.io_trio.agent import AgentError  # noqa: PLC0415 - see cli.main
    from ktls_agent.io_trio.service import run_service  # noqa: PLC0415

    try:
        run_service(configuration_file, to_stderr=to_stderr)
    except AgentError as error:
        click.echo(f"{DISTRIBUTION}: {error}", err=True)
        sys.exit(error.exit_code)


run.params.append(version_option())
