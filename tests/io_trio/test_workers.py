"""Several processes that serve, and one that looks after them."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_agent.io_trio import service as service_module
from ktls_agent.io_trio import workers as workers_module
from ktls_agent.io_trio.agent import AgentError
from ktls_agent.io_trio.notify import Notifier
from ktls_agent.io_trio.service import run_workers
from ktls_agent.io_trio.workers import Relay, Supervisor
from tests.io_trio.house import Log

PATIENCE = 10.0


class Trial:
    """A supervisor in this process's main thread, and a thread that does things to it.

    Workers write a line each into a file when they begin, and for what befalls them.
    """

    def __init__(
        self,
        folder: Path,
        work: Callable[["Trial"], int],
        *,
        count: int = 2,
        relay: Relay | None = None,
    ) -> None:
        self.file = folder / "workers"
        self.file.touch()
        self.log = Log()
        self._supervisor = Supervisor(lambda: work(self), count=count, log=self.log, relay=relay)

    def write(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{text} {os.getpid()}\n")

    def lines(self, text: str) -> list[int]:
        """The processes that wrote this."""
        return [
            int(line.split()[1]) for line in self.file.read_text().splitlines() if line.split()[0] == text
        ]

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.file.read_text()
            time.sleep(0.002)

    def run(self, act: Callable[[], None] = lambda: None) -> int:
        """Run the supervisor while `act` runs in a thread; a thread that fails ends the workers."""
        failures: list[BaseException] = []

        def acting() -> None:
            try:
                act()
            except BaseException as error:
                failures.append(error)
                send(signal.SIGTERM)

        mask = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, mask)
        thread = threading.Thread(target=acting)
        try:
            thread.start()
            code = self._supervisor.run()
        finally:
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if failures:
            raise failures[0]
        return code


def serve(trial: Trial) -> int:
    """Serve until SIGTERM; the second one is noted as well."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    signal.signal(signal.SIGHUP, lambda *_: trial.write("reload"))
    trial.write("ready")
    while not stopped:
        signal.pause()
    trial.write("stopped")
    return 0


def send(number: signal.Signals) -> None:
    """Send a signal to the thread of the supervisor (others, of former tests, may not have blocked it)."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def test_starts_so_many_and_stops_them_all(tmp_path: Path) -> None:
    trial = Trial(tmp_path, serve, count=3)

    def act() -> None:
        trial.until(lambda: len(trial.lines("ready")) == 3)
        send(signal.SIGTERM)

    assert trial.run(act) == 0
    assert sorted(trial.lines("stopped")) == sorted(trial.lines("ready"))
    assert len(set(trial.lines("ready"))) == 3
    assert trial.log.lines == []


def test_passes_a_reload_on(tmp_path: Path) -> None:
    trial = Trial(tmp_path, serve)

    def act() -> None:
        trial.until(lambda: len(trial.lines("ready")) == 2)
        send(signal.SIGHUP)
        trial.until(lambda: len(trial.lines("reload")) == 2)
        send(signal.SIGTERM)

    assert trial.run(act) == 0
    assert sorted(trial.lines("reload")) == sorted(trial.lines("ready"))


def test_starts_another_for_one_that_was_killed(tmp_path: Path) -> None:
    trial = Trial(tmp_path, serve)

    def act() -> None:
        trial.until(lambda: len(trial.lines("ready")) == 2)
        victim = trial.lines("ready")[0]
        os.kill(victim, signal.SIGKILL)
        trial.until(lambda: len(trial.lines("ready")) == 3)
        assert trial.lines("ready")[2] != victim
        send(signal.SIGTERM)

    assert trial.run(act) == 0
    victim = trial.lines("ready")[0]
    assert trial.log.lines == [
        (
            "error",
            "worker died",
            {"pid": victim, "reason": "It was killed by SIGKILL.", "restart_seconds": 0.1},
        )
    ]
    assert len(trial.lines("stopped")) == 2


def test_one_that_dies_again_and_again_is_started_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers_module, "FIRST_RESTART_SECONDS", 0.001)
    monkeypatch.setattr(workers_module, "LAST_RESTART_SECONDS", 0.004)
    monkeypatch.setattr(workers_module._Slot, "__init__", slot_that_starts_again_after(0.001))

    def crash(trial: Trial) -> int:
        trial.write("ready")
        raise LookupError("a defect")

    trial = Trial(tmp_path, crash, count=1)

    def act() -> None:
        trial.until(lambda: len(trial.lines("ready")) == 5)
        send(signal.SIGTERM)

    assert trial.run(act) == 0
    delays = [fields["restart_seconds"] for _, _, fields in trial.log.lines]
    assert delays[:4] == [0.001, 0.002, 0.004, 0.004]
    assert trial.log.lines[0][2]["reason"] == "It ended with exit status 70."
    assert "LookupError: a defect" in capfd.readouterr().err


def slot_that_starts_again_after(seconds: float) -> Callable[..., None]:
    def init(self: workers_module._Slot) -> None:
        self.pid, self.started, self.delay, self.due = None, 0.0, seconds, 0.0

    return init


def test_one_that_lived_long_is_started_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "STEADY_SECONDS", 0.0)

    def crash(trial: Trial) -> int:
        trial.write("ready")
        return 1

    trial = Trial(tmp_path, crash, count=1)

    def act() -> None:
        trial.until(lambda: len(trial.lines("ready")) == 3)
        send(signal.SIGTERM)

    assert trial.run(act) == 0
    assert [fields["restart_seconds"] for _, _, fields in trial.log.lines[:2]] == [0.1, 0.1]


def test_gives_up_where_none_can_serve(tmp_path: Path) -> None:
    def refuse(trial: Trial) -> int:
        if not trial.lines("ready"):
            trial.write("ready")
            return os.EX_NOPERM
        return serve(trial)

    trial = Trial(tmp_path, refuse)
    assert trial.run() == os.EX_NOPERM
    assert trial.log.lines == []


def test_what_workers_tell_systemd_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(PATIENCE)
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def tell(trial: Trial) -> int:
            Notifier.from_environment(os.environ).ready()
            return serve(trial)

        relay = Relay(os.environ["NOTIFY_SOCKET"])
        trial = Trial(tmp_path, tell, relay=relay)
        said: list[bytes] = []

        def act() -> None:
            said.extend(systemd.recv(4096) for _ in range(2))
            trial.until(lambda: len(trial.lines("ready")) == 2)
            send(signal.SIGTERM)

        assert trial.run(act) == 0
        assert [note.splitlines()[0] for note in said] == [b"READY=1"] * 2
        relay.close()


@pytest.mark.parametrize("address", ["@ktls-agent-nobody-listens", "/nonexistent/notify"])
def test_a_systemd_that_does_not_listen_is_no_reason_to_end(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    relay = Relay(address)
    Notifier.from_environment(os.environ).ready()
    relay.pass_on()
    relay.close()


# The service


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(service_module, "run_service", lambda *_, **named: calls.append(named))
    assert run_workers(None, to_stderr=True, count=1) == 0
    assert calls == [
        {
            "to_stderr": True,
            "log_format": "text",
            "record": None,
            "status_socket": None,
            "allow_readable_keys": False,
        }
    ]


def test_why_none_can_serve_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AgentError("This kernel has no handshake service.", exit_code=os.EX_UNAVAILABLE)

    monkeypatch.setattr(service_module, "run_service", refuse)
    with pytest.raises(AgentError) as caught:
        run_workers(None, to_stderr=True, count=3)
    assert (str(caught.value), caught.value.exit_code) == (
        "This kernel has no handshake service.",
        os.EX_UNAVAILABLE,
    )


def test_workers_that_stop_in_order_are_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "run_service", lambda *_, **__: None)
    assert run_workers(None, to_stderr=True, count=2) == 0
