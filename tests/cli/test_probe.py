"""`ktls-agent probe`, as people and scripts meet it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.sansio.probe import Mode, Report, Target
from ktls_agent.sansio.status import Cause, failure
from tests.cli.test_cli import invoke
from tests.io_trio.house import server_certificate


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "tlshd.conf"
    path.touch()
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    async def probe(target: Target, credentials: object, **more: Any) -> Report:
        calls.append({"target": target, **more})
        refused = failure(Cause.UNKNOWN_CA, "Nobody knows it.")
        return Report(
            target=target,
            address="192.0.2.1",
            starttls=True,
            failure=refused,
            chain=(server_certificate().chain[0],),
            phases={"connect": 0.001},
        )

    monkeypatch.setattr("ktls_agent.io_trio.probe.probe", probe)
    return calls


def test_a_report_is_lines(configuration: Path, seen: list[dict[str, Any]]) -> None:
    code, out, err = invoke("probe", "nfs.example", "-c", str(configuration))
    assert (code, err) == (1, "")
    assert seen[0]["target"] == Target(host="nfs.example", port=2049, mode=Mode.NFS)
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["starttls", "yes"] in lines
    assert ["subject", "CN=server.test"] in lines
    assert ["accepted", "no"] in lines
    assert "certificate 1 of 1:" in out.splitlines()
    assert "version" not in out


def test_a_report_is_json(configuration: Path, seen: list[dict[str, Any]]) -> None:
    code, out, _ = invoke("probe", "--tls", "nfs.example:1", "-c", str(configuration), "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["port"], told["mode"], told["cause"]) == (1, "tls", "unknown_ca")
    assert told["certificates"][0]["names"] == ["DNS:server.test"]


def test_a_key_is_offered(configuration: Path, seen: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("00" * 32)
    options = ("--nvme", "a", "-c", str(configuration), "--psk-identity", "host", "--psk-file", str(path))
    assert invoke("probe", *options)[0] == 1
    assert seen[0]["psk"].identity == b"host"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("a:x",), 2, "The port 'x' is not a number"),
        (("a", "--psk-identity", "x"), 2, "go together"),
        (("a", "--psk-identity", "x", "--psk-file", "/dev/null"), 2, "pre-shared key can't be used"),
        (("a", "--psk-identity", "x", "--psk-file", "/nonexistent"), 66, "can't be read"),
        (("a", "-c", "/nonexistent"), 78, "can't be read"),
    ],
)
def test_what_can_not_be_probed_is_one_line(options: tuple[str, ...], code: int, said: str) -> None:
    result, _, err = invoke("probe", *options)
    assert result == code
    assert said in err
