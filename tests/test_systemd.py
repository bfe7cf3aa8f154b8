"""The systemd unit: well-formed, and sandboxed as far as systemd itself can tell."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "packaging" / "systemd" / "ktls-agent.service"
MAX_EXPOSURE = 2.0


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that exists."""
    path = tmp_path / "ktls-agent.service"
    path.write_text(
        UNIT.read_text(encoding="utf-8").replace("@BINDIR@/ktls-agent", "/bin/true"), encoding="utf-8"
    )
    return path


def analyze(*arguments: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_is_well_formed(installed: Path) -> None:
    said = analyze("verify", "--man=no", str(installed))
    assert [line for line in said.splitlines() if "ktls-agent.service:" in line] == []


def test_the_unit_is_sandboxed(installed: Path) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(installed))
    exposure = re.search(r"exposure level for ktls-agent.service: ([0-9.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= MAX_EXPOSURE
