"""`ktls-agent check`, as people and monitoring meet it."""

import json
from pathlib import Path

import pytest

from ktls_agent.sansio.findings import Finding, Level
from tests.cli.test_cli import invoke

FINDINGS = [
    Finding(level=Level.OK, subject="kernel", text="It is well."),
    Finding(
        level=Level.WARNING, subject="agent", text="None listens.", advice="Start one. " + "Do it now. " * 12
    ),
]


@pytest.fixture(autouse=True)
def _findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_machine(path: Path | None) -> list[Finding]:
        assert path == Path("/etc/x")
        return FINDINGS

    monkeypatch.setattr("ktls_agent.io_trio.check.check_machine", check_machine)


def test_findings_are_lines_with_their_advice() -> None:
    code, out, err = invoke("check", "-c", "/etc/x")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[:3] == ["ok      kernel: It is well.", "warning agent: None listens.", lines[2]]
    assert lines[2].startswith("        -> Start one. Do it now.")
    assert max(map(len, lines)) < 110


def test_what_is_well_can_be_left_out() -> None:
    assert invoke("check", "-c", "/etc/x", "--quiet")[1].startswith("warning agent")


def test_findings_are_json_for_monitoring() -> None:
    code, out, _ = invoke("check", "-c", "/etc/x", "--json")
    assert code == 1
    assert json.loads(out)[0] == {"level": "ok", "subject": "kernel", "text": "It is well.", "advice": ""}
    assert [item["level"] for item in json.loads(out)] == ["ok", "warning"]
