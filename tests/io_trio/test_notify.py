"""What systemd is told (sd_notify(3))."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from ktls_agent.io_trio.notify import Notifier
from ktls_agent.io_trio.service import serve
from ktls_agent.io_trio.simulation.machine import Machine
from tests.io_trio.house import until
from tests.io_trio.test_service import Daemon


class Manager:
    """Hears what services tell."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.heard: list[list[str]] = []

    def first_lines(self) -> list[str]:
        """The first line of each message so far."""
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode().splitlines())
            except BlockingIOError:
                return [lines[0] for lines in self.heard]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


async def test_a_daemon_tells_its_life(manager: Manager, tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = Daemon(Machine())
    notifier = Notifier(str(tmp_path / "notify"))

    async def run() -> None:
        await serve(daemon.agent, daemon.store, daemon.log, notifier=notifier)

    nursery.start_soon(run)
    await until(lambda: manager.first_lines() == ["READY=1"])
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: manager.first_lines() == ["READY=1", "RELOADING=1", "READY=1"])
    name, _, microseconds = manager.heard[1][1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert int(microseconds) > 0
    daemon.problem = "It is broken."
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: manager.first_lines()[3:] == ["RELOADING=1", "READY=1"])
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: manager.first_lines()[-1] == "STOPPING=1")


async def test_the_watchdog_hears_twice_in_its_time(
    manager: Manager, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(29):
        await Notifier(str(tmp_path / "notify"), watchdog_seconds=10).keep_awake()
    assert manager.first_lines() == ["WATCHDOG=1"] * 6


async def test_without_a_watchdog_nobody_is_kept_awake(manager: Manager, tmp_path: Path) -> None:
    await Notifier(str(tmp_path / "notify")).keep_awake()
    assert manager.first_lines() == []


def test_an_abstract_socket_is_one() -> None:
    name = f"ktls-agent-test-{os.getpid()}"
    made = Manager(f"\0{name}")
    Notifier(f"@{name}").stopping()
    assert made.first_lines() == ["STOPPING=1"]
    made.socket.close()


@pytest.mark.parametrize("address", [None, "/nonexistent/notify"])
def test_nobody_to_tell_is_no_problem(address: str | None) -> None:
    Notifier(address).ready()


PID = str(os.getpid())
PARENT = str(os.getppid())


@pytest.mark.parametrize(
    ("environment", "address", "seconds"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, "/run/x", 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": PID}, "/run/x", 5.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": PARENT}, "/run/x", 5.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "0"}, "/run/x", None),
        ({"WATCHDOG_USEC": "soon"}, None, None),
        ({"WATCHDOG_USEC": "0"}, None, None),
    ],
)
def test_reads_its_environment(
    environment: dict[str, str], address: str | None, seconds: float | None
) -> None:
    notifier = Notifier.from_environment(environment)
    assert (notifier._address, notifier._watchdog_seconds) == (address, seconds)
