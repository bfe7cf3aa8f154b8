"""Small copies of what the agent needs at run time, for a guest that can't see the host's files.

User Mode Linux shows the host's directories as they are. QEMU gets them on a disk, which the guest unpacks under
emulation: a checkout with its virtual environment and a Python can be more than a gigabyte. What the agent runs with is
a twentieth of that: its own code, the packages that it depends on (by the metadata of what is installed), and the
standard library without its tests; all of it byte-compiled here, as the guest would take many seconds for that.
"""

import compileall
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

AGENT: Final = "ktls-agent"
CODE: Final = ("sansio", "io_trio", "cli")
"""The folders of the checkout that the agent's packages are in."""

UNUSED: Final = (
    *("test", "tests", "_tests", "config-*", "idlelib", "lib2to3", "tkinter", "turtledemo"),
    *("ensurepip", "pydoc_data", "*.opt-?.pyc", "*.a"),
)
"""What an agent never imports, of the standard library and of packages; some of it is large."""


def runtime_packages(name: str = AGENT) -> set[str]:
    """Return the names in site-packages of an installed distribution and of all that it requires."""
    seen: set[str] = set()
    wanted = [name]
    files: set[str] = set()
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        files |= {file.parts[0] for file in found.files or ()}
        required = map(Requirement, found.requires or ())
        wanted += [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]
    return files


def kept_names(*, checkout: Path, base_prefix: Path) -> dict[Path, Iterable[str]]:
    """List what is copied of the directories of which something is left out."""
    prefix, packages = Path(sys.prefix), Path(sysconfig.get_path("purelib"))
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(base_prefix)}))
    environment = [prefix.relative_to(checkout).parts[0]] if prefix.is_relative_to(checkout) else []
    return {
        checkout: [*CODE, *environment],
        prefix: ["bin", "lib", "pyvenv.cfg"],
        prefix / "bin": ["python*", AGENT],
        packages: runtime_packages(),
        base_prefix: ["bin", "lib"],
        base_prefix / "bin": ["python*"],
        base_prefix / "lib": [library.name, "libpython*.so*"],
        library / "site-packages": [],
    }


def _ignore(kept: Mapping[Path, Iterable[str]]) -> Callable[[str, list[str]], set[str]]:
    def matches(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    def ignore(directory: str, names: list[str]) -> set[str]:
        patterns = kept.get(Path(directory))
        if patterns is not None:
            return {name for name in names if not matches(name, patterns)}
        return {name for name in names if matches(name, UNUSED)}

    return ignore


def small_copies(binds: Iterable[str], *, stage: Path, checkout: Path, base_prefix: Path) -> list[str]:
    """Copy directories of the host, without what the agent does not need.

    Args:
        binds: The directories, as `machine.shown_in_guest` lists them: SOURCE or SOURCE:DESTINATION.
        stage: An empty directory for the copies.
        checkout: This checkout, of which only the agent's code is copied.
        base_prefix: Where the Python is installed that the virtual environment was made from.

    Returns:
        The copies, as COPY:DESTINATION.
    """
    ignore = _ignore(kept_names(checkout=checkout, base_prefix=base_prefix))
    copies: list[str] = []
    for number, bind in enumerate(binds):
        source, _, destination = bind.partition(":")
        copy = stage / str(number)
        shutil.copytree(source, copy, symlinks=True, ignore=ignore)
        compileall.compile_dir(copy, quiet=2, stripdir=str(copy), prependdir=destination or source)
        copies.append(f"{copy}:{destination or source}")
    return copies
