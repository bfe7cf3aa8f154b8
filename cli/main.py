"""`ktls-agent`: the group of commands.  What a command needs is imported when it runs, so that --help is quick."""

import sys
from importlib import import_module
from typing import Final, cast

import click

DISTRIBUTION: Final = "ktls-agent"

COMMANDS: Final = ("run", "status", "check", "probe", "explain", "replay", "demo")
"""In the order of --help."""

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


def print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001
    """Print the version and leave: the callback of -v/--version."""
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415 - only who asks pays

    click.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
    context.exit()


def version_option() -> click.Option:
    """Make tlshd's -v/--version."""
    return click.Option(
        ["-v", "--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=print_version,
        help="Print the version and exit.",
    )


class Commands(click.Group):
    """Imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of --help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command: the module of its name has it under its name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return cast("click.Command", getattr(import_module(f".{cmd_name}", __package__), cmd_name))


group: Final = Commands(
    name=DISTRIBUTION,
    context_settings=CONTEXT,
    params=[version_option()],
    help="TLS handshake agent for Linux kernel TLS consumers: NFS and NVMe/TCP over TLS.",
)


def main() -> None:
    """Run the command line; the entry point of the installed script."""
    try:
        group.main(standalone_mode=True)
    except OSError as error:  # for example a terminal that went away
        click.echo(f"{DISTRIBUTION}: {error.strerror or error}", err=True)
        sys.exit(1)
