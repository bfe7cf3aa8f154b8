"""`ktls-agent status`, against a socket that answers as the agent does."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktls_agent.cli import status as status_module
from ktls_agent.sansio.activity import Activity, status_object
from tests.cli.test_cli import invoke
from tests.io_trio.house import full_credentials
from tests.test_activity import FAILED


def told() -> bytes:
    activity = Activity()
    activity.request_began()
    activity.request_ended({**FAILED, "peer": "[red]a\x1b"})
    made = status_object(activity, full_credentials(), version="1.2", pid=7, uptime=61.0, dropped=0)
    return json.dumps(made).encode()


class Answers:
    """Answers each connection with a page."""

    def __init__(self, path: Path, body: bytes) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.body = body
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(4096)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.body)}\r\n\r\n"
                sock.sendall(head.encode() + self.body)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sock"
    answers = Answers(path, told())
    yield path
    answers.close()


def test_shows_tables(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = invoke("status", "--socket", str(agent))
    assert (code, err) == (0, "")
    assert "ktls-agent 1.2, process 7, up 61 s; 0 under way" in out
    for text in ("EACCES", "unknown_psk", "CN=server.test", "[red]a\\x1b", "It knows none."):
        assert text in out


def test_shows_json(agent: Path) -> None:
    code, out, _ = invoke("status", "--socket", str(agent), "--json")
    assert code == 0
    assert json.loads(out) == json.loads(told())


def test_watches_until_it_is_interrupted(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    code, out, _ = invoke("status", "--socket", str(agent), "--watch")
    assert code == 0
    assert naps == [status_module.WATCH_SECONDS] * 3
    assert "ktls-agent 1.2" in out


def test_no_agent_is_one_line(tmp_path: Path) -> None:
    code, out, err = invoke("status", "--socket", str(tmp_path / "absent"), "--json")
    assert (code, out) == (69, "")
    assert "No such file or directory. See run --status-socket." in err
    assert len(err.splitlines()) == 1


def test_another_service_is_one_line(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "sock", b"hello")
    code, _, err = invoke("status", "--socket", str(tmp_path / "sock"), "--json")
    answers.close()
    assert code == 69
    assert "the answer is no status" in err


def test_a_missing_extra_is_told(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.live", None)
    code, _, err = invoke("status", "--socket", str(agent))
    assert code == 1
    assert "pip install 'ktls-agent[tools]'" in err
