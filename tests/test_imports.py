"""The house's walls, read from the syntax trees: sansio is pure, and imports point down."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sansio", "io_trio", "cli")
BELOW = {"sansio": set[str](), "io_trio": {"sansio"}, "cli": {"sansio", "io_trio"}}

IMPURE_MODULES = {
    "asyncio", "concurrent", "ctypes", "fcntl", "glob", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "random", "resource", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl",
    "structlog", "subprocess", "sys", "syslog", "tempfile", "threading", "_thread", "time", "trio", "uuid",
}  # fmt: skip
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "__import__"}
CLOCKS = {"now", "utcnow", "today"}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def absolute_imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def relative_imports(path: Path) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, node.level


@pytest.mark.parametrize("path", modules("sansio"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_nothing_that_does_io_or_reads_a_clock(path: Path) -> None:
    impure = [(line, name) for line, name in absolute_imports(path) if name.split(".")[0] in IMPURE_MODULES]
    assert impure == []


@pytest.mark.parametrize("path", modules("sansio"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_calls_nothing_that_does_io_or_reads_a_clock(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    names = [(node.lineno, node.func.id) for node in calls if isinstance(node.func, ast.Name)]
    methods = [(node.lineno, node.func.attr) for node in calls if isinstance(node.func, ast.Attribute)]
    assert [found for found in names if found[1] in IMPURE_BUILTINS] == []
    assert [found for found in methods if found[1] in CLOCKS] == []


@pytest.mark.parametrize("path", modules(*FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_across_folders_are_absolute_and_point_down(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for line, name in absolute_imports(path):
        top, *rest = name.split(".")
        assert top not in FOLDERS, f"line {line}: the installed name is ktls_agent.{name}"
        if top == "ktls_agent" and rest:
            assert rest[0] in BELOW[folder], f"line {line}: {folder} may not import {name}"


@pytest.mark.parametrize("path", modules(*FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_imports_stay_inside_their_folder(path: Path) -> None:
    depth = len(path.relative_to(ROOT).parts) - 1
    assert [(line, level) for line, level in relative_imports(path) if level > depth] == []


def test_only_the_connection_its_messages_and_settings_touch_tlslite() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules(*FOLDERS)
        for _, name in absolute_imports(path)
        if name.split(".")[0] == "tlslite"
    }
    assert users == {f"sansio/tls/{name}.py" for name in ("connection", "messages", "settings")}


def test_only_the_netlink_messages_touch_pyroute2() -> None:
    users = {
        path.relative_to(ROOT).parent.as_posix()
        for path in modules(*FOLDERS)
        for _, name in absolute_imports(path)
        if name.split(".")[0] == "pyroute2"
    }
    assert users == {"sansio/netlink"}
