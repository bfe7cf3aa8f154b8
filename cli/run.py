"""`ktls-agent run`: the daemon, with tlshd's options."""

import os
import sys
from pathlib import Path
from typing import Literal

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
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Write log lines for people, or as JSON objects.",
)
@click.option(
    "--record",
    "record_directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a transcript of each request to this directory, for `ktls-agent explain` and `replay`.",
)
@click.option("--only", type=click.Choice(["failures"]), help="What to record: not all, but failed requests.")
@click.option(
    "--record-secrets",
    is_flag=True,
    help="Record keys, too. Whoever has such a file can read the connection, and use its pre-shared keys.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=None,
    metavar="N",
    help="How many processes serve requests.  [default: the number of CPUs that this process may use]",
)
@click.option(
    "--status-socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Tell what the agent does on this Unix socket, over HTTP: /status, and /metrics for Prometheus.",
)
@click.option(
    "--allow-readable-keys",
    is_flag=True,
    help="Take private keys that other users may read; without it they are an error.",
)
def run(
    *,
    configuration_file: Path | None,
    to_stderr: bool,
    log_format: Literal["text", "json"],
    record_directory: Path | None,
    only: str | None,
    record_secrets: bool,
    status_socket: Path | None,
    allow_readable_keys: bool,
    workers: int | None,
) -> None:
    """Serve the kernel's handshake requests until SIGTERM; SIGHUP reloads the configuration.

    Exit status: 0 after SIGTERM or SIGINT; 69 if the kernel has no handshake service; 71 if netlink fails; 73 if recordings
    or the status socket can't be made; 77 without the privilege (CAP_NET_ADMIN); 78 if the configuration can't be used.
    """
    from ktls_agent.io_trio.agent import AgentError  # noqa: PLC0415 - see cli.main
    from ktls_agent.io_trio.recorder import RecordingOptions  # noqa: PLC0415
    from ktls_agent.io_trio.service import run_workers  # noqa: PLC0415

    record = None
    if record_directory is not None:
        record = RecordingOptions(
            directory=record_directory, only_failures=only == "failures", secrets=record_secrets
        )
    elif only or record_secrets:
        raise click.UsageError("--only and --record-secrets go with --record DIR.")
    if status_socket is not None and (workers or 1) > 1:
        raise click.UsageError(
            "--status-socket tells of one process: it goes with --workers 1, its default then."
        )
    count = workers or (1 if status_socket is not None else len(os.sched_getaffinity(0)))
    try:
        code = run_workers(
            configuration_file,
            to_stderr=to_stderr,
            log_format=log_format,
            record=record,
            status_socket=status_socket,
            allow_readable_keys=allow_readable_keys,
            count=count,
        )
        sys.exit(code)
    except AgentError as error:
        click.echo(f"{DISTRIBUTION}: {error}", err=True)
        sys.exit(error.exit_code)


run.params.append(version_option())
