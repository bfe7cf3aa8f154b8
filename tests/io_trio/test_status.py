"""The agent's status over HTTP on a Unix socket."""

import json
import socket
import stat
import sys
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from ktls_agent.io_trio.agent import AgentError
from ktls_agent.io_trio.service import run_service
from ktls_agent.io_trio.status import StatusImpossible, StatusServer, StatusSource
from ktls_agent.sansio.activity import Activity
from tests.io_trio.house import Log, client_request, full_credentials, running_house, server_request, until
from tests.test_activity import DONE, FAILED


def source(activity: Activity) -> StatusSource:
    return StatusSource(
        activity=activity, credentials=full_credentials, dropped=lambda: 3, started=10.0, clock=lambda: 12.0
    )


def some_activity() -> Activity:
    activity = Activity()
    for fields in (DONE, FAILED):
        activity.request_began()
        activity.request_ended(fields)
    activity.accepted_after(0.002)
    activity.reloaded(ok=True)
    return activity


async def get(path: Path, page: str) -> tuple[str, bytes]:
    """Ask as any HTTP client does; the first line of the answer, and its body."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(f"GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = b"".join([part async for part in stream])
    head, _, body = said.partition(b"\r\n\r\n")
    return head.splitlines()[0].decode(), body


async def test_serves_status_and_metrics_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    server = StatusServer(path, source(some_activity()))
    async with trio.open_nursery() as nursery:
        log = Log()
        nursery.start_soon(server.run, log)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with trio.fail_after(10):
            line, body = await get_when_up(path, "/status")
            told = json.loads(body)
            assert line.startswith("HTTP/1.1 200")
            assert (told["uptime_seconds"], told["recordings_dropped"]) == (2.0, 3)
            assert (await get(path, "/other"))[0].startswith("HTTP/1.1 404")
            _, text = await get(path, "/metrics")
        nursery.cancel_scope.cancel()
    assert not path.exists()
    assert log.lines == []
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    wanted = {"role": "client", "auth": "psk", "status": "EACCES", "cause": "unknown_psk"}
    assert samples["ktls_agent_requests_total", *sorted(wanted.items())] == 1
    assert samples["ktls_agent_phase_seconds_bucket", ("le", "0.025"), ("phase", "handshake")] == 1
    assert samples["ktls_agent_phase_seconds_count", ("phase", "total")] == 2
    assert samples["ktls_agent_accept_lag_seconds_sum",] == 0.002
    assert samples["ktls_agent_in_flight",] == 0
    assert samples["ktls_agent_reloads_total", ("result", "ok")] == 1
    assert samples["ktls_agent_recordings_dropped_total",] == 3
    expiry = (
        "ktls_agent_certificate_expiry_timestamp_seconds",
        ("role", "server"),
        ("subject", "CN=server.test"),
    )
    assert samples[expiry] > 1e9


async def get_when_up(path: Path, page: str) -> tuple[str, bytes]:
    """The socket is bound at once, and listens as soon as the server runs."""
    while True:
        try:
            return await get(path, page)
        except OSError:
            await trio.sleep(0.001)


async def test_a_server_that_breaks_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(*_: object, **__: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("hypercorn.trio.serve", serve)
    log = Log()
    await StatusServer(tmp_path / "sock", source(Activity())).run(log)
    assert log.lines == [("error", "status no longer served", {"reason": "ValueError: a defect"})]


def test_a_socket_that_a_former_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
    StatusServer(path, source(Activity())).close()
    assert not path.exists()


def test_any_other_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(StatusImpossible, match="Address already in use"):
        StatusServer(path, source(Activity()))
    assert path.read_text() == "precious"


def test_a_missing_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    path = tmp_path / "tlshd.conf"
    path.touch()
    with pytest.raises(AgentError, match=r"pip install 'ktls-agent\[metrics\]'"):
        run_service(path, to_stderr=True, status_socket=tmp_path / "sock")


async def test_an_agent_counts_what_it_does() -> None:
    async with running_house() as house:
        await house.ask(server_request())
        await until(lambda: house.agent.activity.in_flight == 1)
        _, theirs = await house.ask(client_request(peername=None))
        theirs.close()
        await house.finished()
        activity = house.agent.activity
        assert activity.in_flight == 1
        assert activity.accept_lag.count == 2
        assert sum(activity.requests.values()) == 1
