"""The daemon around the agent: signals, reloading, and the start on this machine."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from ktls_agent.io_trio import service as service_module
from ktls_agent.io_trio.agent import Agent, AgentError
from ktls_agent.io_trio.credentials import ConfigurationUnusable, CredentialStore
from ktls_agent.io_trio.handler import Services, no_trace_for, wall_clock
from ktls_agent.io_trio.recorder import Recorder, RecordingOptions
from ktls_agent.io_trio.service import _make_status, run_service, serve
from ktls_agent.io_trio.simulation.machine import Machine, connected_pair
from ktls_agent.io_trio.status import StatusSource
from ktls_agent.sansio.netlink.spec import Auth
from ktls_agent.sansio.policy import Credentials
from tests.io_trio.house import Log, full_credentials, server_request, until


class Daemon:
    """An agent under signals, with a configuration that can break."""

    def __init__(self, machine: Machine, *, record: Path | None = None) -> None:
        self.machine = machine
        self.log = Log()
        self.problem: str | None = None
        self.loads = 0
        self.store = CredentialStore(self.load)
        self.recorder = None
        if record is not None:
            self.recorder = Recorder(RecordingOptions(directory=record), log=self.log, wall_clock=wall_clock)
        services = Services(
            credentials=lambda: self.store.current,
            installer=machine,
            keyring=machine.keyring,
            log=self.log,
            trace_for=no_trace_for if self.recorder is None else self.recorder.trace_for,
        )
        self.agent = Agent(services, open_socket=machine.open_socket)

    def load(self) -> Credentials:
        if self.problem is not None:
            raise ConfigurationUnusable(self.problem)
        self.loads += 1
        return full_credentials() if self.loads == 1 else Credentials(warnings=("It is odd.",))

    async def serve(self) -> None:
        await serve(self.agent, self.store, self.log, self.recorder)

    def events(self) -> list[str]:
        return [event for _, event, _ in self.log.lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(number: signal.Signals, nursery: trio.Nursery) -> None:
    daemon = Daemon(Machine())
    nursery.start_soon(daemon.serve)
    await until(lambda: "ready" in daemon.events())
    os.kill(os.getpid(), number)
    await until(lambda: "stopped" in daemon.events())
    assert daemon.log.lines[-2:] == [
        ("info", "stopping", {"signal": number.name}),
        ("info", "stopped", {"pid": os.getpid()}),
    ]
    assert daemon.machine.sockets == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_a_signal_reads_the_configuration_again(number: signal.Signals, nursery: trio.Nursery) -> None:
    daemon = Daemon(Machine())
    nursery.start_soon(daemon.serve)
    await until(lambda: "ready" in daemon.events())
    before = daemon.store.current
    daemon.problem = "It is broken."
    os.kill(os.getpid(), number)
    await until(lambda: daemon.log.lines[-1][0] == "error")
    assert daemon.log.lines[-1] == (
        "error",
        "configuration not reloaded, the former one stays in use",
        {"reason": "It is broken."},
    )
    assert daemon.store.current is before
    daemon.problem = None
    os.kill(os.getpid(), number)
    await until(lambda: daemon.store.current is not before)
    await until(lambda: daemon.log.lines[-1][0] == "warning")
    assert daemon.log.lines[-2:] == [
        ("info", "configuration reloaded", {}),
        ("warning", "configuration", {"warning": "It is odd."}),
    ]
    daemon.agent.stop()


async def test_tells_its_status_and_counts_reloads(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = Daemon(Machine())
    path = tmp_path / "status.sock"
    status = _make_status(
        path,
        StatusSource(
            activity=daemon.agent.activity, credentials=lambda: daemon.store.current, dropped=int, started=0.0
        ),
    )
    nursery.start_soon(partial(serve, daemon.agent, daemon.store, daemon.log, status=status))
    await until(lambda: "ready" in daemon.events())
    daemon.problem = "It is broken."
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: daemon.agent.activity.reloads["failed"] == 1)
    daemon.agent.stop()
    await until(lambda: "stopped" in daemon.events())
    assert not path.exists()


async def test_an_agent_that_can_not_start_ends_it() -> None:
    daemon = Daemon(Machine(family_present=False))
    with pytest.raises(AgentError, match="no handshake service"):
        await daemon.serve()


def test_a_configuration_that_can_not_be_used_ends_it(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="No such file") as caught:
        run_service(tmp_path / "absent", to_stderr=True)
    assert caught.value.exit_code == os.EX_CONFIG


def test_runs_with_everything_real_but_netlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(family_present=False)
    monkeypatch.setattr(service_module, "KernelSocket", machine.open_socket)
    path = tmp_path / "tlshd.conf"
    path.write_text("[debug]\nloglevel=1\n[authenticate]\nkeyrings=ktls-agent-absent\n")
    with pytest.raises(AgentError, match="no handshake service") as caught:
        run_service(path, to_stderr=True)
    assert caught.value.exit_code == os.EX_UNAVAILABLE
    lines = capsys.readouterr().err.splitlines()
    assert f"starting pid={os.getpid()} configuration={path}" in lines[0]
    assert "The keyring 'ktls-agent-absent' could not be linked" in lines[1]


def test_what_can_not_be_recorded_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "tlshd.conf"
    path.touch()
    with pytest.raises(AgentError, match="can't be used: File exists") as caught:
        run_service(path, to_stderr=True, record=RecordingOptions(directory=path))
    assert caught.value.exit_code == os.EX_CANTCREAT


@pytest.mark.parametrize("secrets", [True, False])
def test_recording_secrets_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secrets: bool
) -> None:
    machine = Machine(family_present=False)
    monkeypatch.setattr(service_module, "KernelSocket", machine.open_socket)
    path = tmp_path / "tlshd.conf"
    path.touch()
    with pytest.raises(AgentError, match="no handshake service"):
        run_service(path, to_stderr=True, record=RecordingOptions(directory=tmp_path / "a", secrets=secrets))
    assert ("recording secrets" in capsys.readouterr().err) is secrets
    assert (tmp_path / "a").is_dir()


async def test_what_was_recorded_is_written_before_it_ends(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = Daemon(Machine(), record=tmp_path)
    nursery.start_soon(daemon.serve)
    await until(lambda: "ready" in daemon.events())
    ours, theirs = await connected_pair()
    with ours, theirs:
        consumer = daemon.machine.submit(server_request(Auth.UNAUTH), ours)
        await consumer.wait()
        await until(lambda: any(event.startswith("handshake") for event in daemon.events()))
        daemon.agent.stop()
        await until(lambda: "stopped" in daemon.events())
    (path,) = tmp_path.glob("*.transcript")  # noqa: ASYNC240 - a folder in memory
    assert path.name.endswith("-unknown-EINVAL.transcript")


def test_the_clock_knows_its_time_zone() -> None:
    assert wall_clock().tzinfo is not None
