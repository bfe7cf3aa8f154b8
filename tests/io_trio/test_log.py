"""Log lines: one event, one line, whatever a peer puts into it."""

import io
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.io_trio.log import (
    MAX_VALUE,
    LogFormat,
    is_journal,
    make_logger,
    printable,
    render,
    render_json,
)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "event"),
        ({"role": "client", "ms": 1.5}, "event role=client ms=1.5"),
        ({"reason": "two words"}, 'event reason="two words"'),
        ({"reason": 'a "quoted" word'}, 'event reason="a \\"quoted\\" word"'),
        ({"subject": "CN=x"}, 'event subject="CN=x"'),
        ({"empty": ""}, 'event empty=""'),
        ({"peer": "a\nb\x1b[31m\x7f\u2028\x85"}, "event peer=a\\x0ab\\x1b[31m\\x7f\\u2028\\x85"),
        ({"peer": "\udcff"}, "event peer=\\udcff"),
        ({"long": "x" * (MAX_VALUE + 1)}, f"event long={'x' * MAX_VALUE}..."),
    ],
)
def test_renders_an_event_and_its_fields(fields: dict[str, object], line: str) -> None:
    assert render("event", fields) == line


@given(st.text())
def test_any_value_stays_on_its_line(text: str) -> None:
    assert len(printable(text).splitlines()) <= 1
    assert printable(text).encode().decode() == printable(text)  # no lone surrogates


def test_a_stderr_line_has_time_and_level() -> None:
    stream = io.StringIO()
    log = make_logger(to_stderr=True, debug=False, stream=stream)
    log.warning("handshake failed", role="client", reason="100% of it")
    log.debug("not shown")
    time, _, rest = stream.getvalue().partition(" ")
    assert time.endswith("Z")
    assert rest == 'warning handshake failed role=client reason="100% of it"\n'


def test_debugging_lines_are_shown_if_wanted() -> None:
    stream = io.StringIO()
    make_logger(to_stderr=True, debug=True, stream=stream).debug("details", x=1)
    assert stream.getvalue().endswith(" debug   details x=1\n")


def test_a_terminal_is_logged_to() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    make_logger(to_stderr=False, debug=False, stream=stream, syslog=Path("/nonexistent")).info("hello")
    assert stream.getvalue().endswith(" info    hello\n")


def test_stderr_is_logged_to_where_no_syslog_listens(tmp_path: Path) -> None:
    stream = io.StringIO()
    make_logger(to_stderr=False, debug=False, stream=stream, syslog=tmp_path / "absent").info("hello")
    assert stream.getvalue().endswith(" info    hello\n")


def test_syslog_gets_the_line_with_its_priority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        stream = io.StringIO()
        log = make_logger(to_stderr=False, debug=True, stream=stream, syslog=path)
        log.debug("a")
        log.info("b", reason="50% off")
        log.warning("c")
        log.error("d")
        received = [syslog.recv(1000) for _ in range(4)]
    # Syslog is gone now: a line goes to stderr, without a traceback.
    log.info("e")
    log._logger.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert capsys.readouterr().err == "e\n"
    assert received == [
        b"<31>ktls-agent: a\0",
        b'<30>ktls-agent: b reason="50% off"\0',
        b"<28>ktls-agent: c\0",
        b"<27>ktls-agent: d\0",
    ]
    assert stream.getvalue() == ""


def test_a_json_line_is_an_object_with_time_and_level() -> None:
    stream = io.StringIO()
    log = make_logger(to_stderr=True, debug=False, log_format="json", stream=stream)
    log.warning("handshake failed", role="client", total_ms=1.5, remote="a\nb\udcff")
    (line,) = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("Z")
    assert parsed == {
        "event": "handshake failed",
        "level": "warning",
        "role": "client",
        "total_ms": 1.5,
        "remote": "a\nb\\udcff",
    }


@given(st.text())
def test_any_value_stays_on_its_json_line(text: str) -> None:
    line = render_json("event", {"peer": text, "ok": True, "none": None})
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert json.loads(line)["ok"] is True


def test_a_json_value_is_bounded() -> None:
    assert json.loads(render_json("e", {"long": "x" * (MAX_VALUE + 1)}))["long"] == f"{'x' * MAX_VALUE}..."


@pytest.mark.parametrize(
    ("log_format", "lines"),
    [
        ("text", ["<7>a", "<6>b x=1", "<4>c", "<3>d"]),
        (
            "json",
            [
                '<7>{"event": "a", "level": "debug"}',
                '<6>{"event": "b", "level": "info", "x": 1}',
                '<4>{"event": "c", "level": "warning"}',
                '<3>{"event": "d", "level": "error"}',
            ],
        ),
    ],
)
def test_the_journal_gets_priorities(log_format: LogFormat, lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        log = make_logger(
            to_stderr=True,
            debug=True,
            log_format=log_format,
            stream=stream,
            journal=f"{status.st_dev}:{status.st_ino}",
        )
        log.debug("a")
        log.info("b", x=1)
        log.warning("c")
        log.error("d")
    assert path.read_text().splitlines() == lines


def test_a_stream_that_is_not_the_journals_is_seen(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        assert not is_journal(stream, None)
        assert not is_journal(stream, "1:1")
    assert not is_journal(io.StringIO(), "1:1")
