"""`ktls-agent demo`: the agent against a simulated kernel."""

import sys

import click

from .main import CONTEXT


@click.command(context_settings=CONTEXT)
def demo() -> None:
    """Show the agent at work on a simulated kernel: no root, no kernel support needed.

    Handshakes, certificates and TCP connections are real; each request is drawn as a ladder with its times in
    milliseconds. Exit status: 0 if every scenario went as expected, else 1.
    """
    from ktls_agent.io_trio.simulation.demo import run_demo  # noqa: PLC0415 - see cli.main

    sys.exit(0 if run_demo(click.echo) else 1)
