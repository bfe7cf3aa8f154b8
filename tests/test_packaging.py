"""What gets installed is what is in the tree."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sansio", "io_trio", "cli")


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packages_in_tree() -> set[str]:
    return {
        "ktls_agent." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }


def test_every_package_of_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    assert set(listed) == packages_in_tree()


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_lock_file_pins_every_requirement_with_hashes() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert pins
    assert all("==" in line for line in pins)
    assert sum("--hash=sha256:" in line for line in lines) >= len(pins)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves its build folder in the source."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        source / "dist",
        ".",
        cwd=source,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_every_module_and_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {
        f"ktls_agent/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= set(names)
    assert "ktls_agent/sansio/py.typed" in names
    assert "ktls_agent/cli/page.css" in names
    assert [name for name in names if name.split("/")[0] in FOLDERS] == []
    assert sum("LICENSE" in name for name in names) == 2


def test_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(target)
    code = "import ktls_agent.cli.main as m, ktls_agent.sansio.tls.engine as e; print(m.__file__, e.__file__)"
    files = run(sys.executable, "-c", code, cwd=elsewhere, path=target).split()
    assert all(file.startswith(str(target)) for file in files)
