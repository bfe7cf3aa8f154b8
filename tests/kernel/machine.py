"""Boots a scenario in User Mode Linux or QEMU, and reads what it reports.

`testbed/mkroot` builds the guest's root once, `testbed/uml` or `testbed/qemu` boots it and runs one of
`testbed/scenarios` with this checkout and its virtual environment at their own paths. The scenario leaves a JSON line
for each of its steps (`testbed/guest/lib.sh`); the tests look up the steps that they are about.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from tests.kernel.copies import small_copies

Role = Literal["client", "server"]
Kernel = Literal["uml", "7", "6.12"]
"""User Mode Linux, or one of the kernels that QEMU boots."""

CHECKOUT: Final = Path(__file__).resolve().parents[2]
TESTBED: Final = Path(__file__).resolve().parent / "testbed"

BOOT_LIMIT: Final = 600
"""Seconds a scenario may take. With tlshd the longest takes 70; a hanging step is ended after 30 itself."""

PROGRAMS: Final = ("apt-get", "dpkg", "wget", "gpgv", "perl", "unshare", "flock")
"""What mkroot, uml and qemu call on the host, apart from what every system has."""

QEMU_PROGRAMS: Final = ("mke2fs",)
"""What they call for QEMU besides."""

RECORDINGS: Final = "/out/recordings"
"""Where the agents record, in the guest."""

OUTPUT_SHOWN: Final = 4000
"""How many characters of the end of a guest's output a failure shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a scenario: its result, and what was logged since the step before."""

    name: str
    ok: bool
    seconds: float
    detail: str
    client: str
    server: str
    kernel: str

    def log_of(self, role: Role) -> str:
        """Return what that role's agent logged."""
        return self.client if role == "client" else self.server

    def __str__(self) -> str:
        logs = (("client agent", self.client), ("server agent", self.server), ("kernel", self.kernel))
        shown = [f"--- {source}:\n{text.rstrip()[-OUTPUT_SHOWN:]}" for source, text in logs if text.strip()]
        result = "ok" if self.ok else "not ok"
        return "\n".join([f"{result}: {self.name} ({self.seconds} s)", self.detail.rstrip(), *shown])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What one boot of the guest reported; and the transcripts that the agents recorded there, by their names."""

    name: str
    output: str
    steps: dict[str, Step]
    recordings: dict[str, bytes]

    def step(self, name: str) -> Step:
        """Return the step of that name, whatever its result; fail if the guest did not come to it."""
        assert name in self.steps, (
            f"the guest reported no step {name!r}; its output ends:\n{self.output[-OUTPUT_SHOWN:]}"
        )
        return self.steps[name]

    def passed(self, name: str) -> Step:
        """Return the step of that name; fail unless it went as it should."""
        step = self.step(name)
        assert step.ok, str(step)
        return step


def parse_steps(lines: str) -> dict[str, Step]:
    """Parse results.jsonl. A name reported twice is not ok unless it was ok both times."""
    steps: dict[str, Step] = {}
    names = [field.name for field in fields(Step)]
    for line in lines.splitlines():
        values = json.loads(line)
        step = Step(**{name: values[name] for name in names})
        before = steps.get(step.name)
        if before is None or before.ok:
            steps[step.name] = step
    return steps


def missing_prerequisite(*, qemu: bool) -> str | None:
    """Say what this machine lacks for booting guests, or None."""
    if os.geteuid() != 0:
        return "booting guests needs root, for mounts and name spaces of their own"
    programs = (*PROGRAMS, *QEMU_PROGRAMS) if qemu else PROGRAMS
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (the guest is built from Debian packages)"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "--make-rprivate", "/"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        return f"this root may not make name spaces and mounts: {probe.stderr.strip()}"
    return None


def build(*, qemu: bool) -> str | None:
    """Build what the guests boot from, unless it was built before; say why if it can't be had.

    Its progress goes to stderr.
    """
    command = [str(TESTBED / "mkroot"), *(["--qemu"] if qemu else [])]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if made.returncode == 0:
        return None
    return "tests/kernel/testbed/mkroot could not build the guests (kernels and the rest); it printed why"


def agent_command(role: Role) -> str:
    """Return the agent under test for a role, as testbed/guest/lib.sh takes it."""
    program = Path(sys.prefix) / "bin" / "ktls-agent"
    default = f"exec {program} run -s -c $TB_CONF --record {RECORDINGS}/$TB_ROLE --record-secrets"
    return os.environ.get(f"{role.upper()}_AGENT") or os.environ.get("AGENT") or default


def is_tlshd(role: Role) -> bool:
    """Whether that role's agent is tlshd, whose log is not ours to specify."""
    return agent_command(role) == "tlshd"


def shown_in_guest(*, base_prefix: Path, stage: Path) -> list[str]:
    """List the host's directories that the agent needs in the guest, as uml's -b takes them.

    These are the checkout, the virtual environment and the Python that this was made from. One in /usr can't be
    shown at its own path, which has the guest's system: there its library goes to its own path, which is named
    after its version, and its program, copied to `stage`, to where guest/init looks for it.
    """
    places = [CHECKOUT]
    if not Path(sys.prefix).is_relative_to(CHECKOUT):
        places.append(Path(sys.prefix))
    if base_prefix != Path("/usr"):
        return [str(place) for place in (*places, base_prefix)]
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(base_prefix)}))
    shutil.copy(base_prefix / "bin" / library.name, stage)
    return [*(str(place) for place in (*places, library)), f"{stage}:/opt/host-python"]


def boot_command(kernel: Kernel, *, stage: Path) -> list[str]:
    """Return the command that boots a kernel, for -o and the scenario to follow; `stage` is for copies.

    Only User Mode Linux can be shown directories of the host; QEMU gets copies, of no more than what the agent needs.
    """
    base_prefix, python, copies = Path(sys.base_prefix), stage / "python", stage / "copies"
    python.mkdir()
    binds = shown_in_guest(base_prefix=base_prefix, stage=python)
    if kernel == "uml":
        command = [str(TESTBED / "uml")]
    else:
        binds = small_copies(binds, stage=copies, checkout=CHECKOUT, base_prefix=base_prefix)
        command = [str(TESTBED / "qemu"), "-k", kernel]
    return [*command, "-t", str(BOOT_LIMIT), *(argument for bind in binds for argument in ("-b", bind))]


_one_emulation: Final = threading.Lock()


def boot(scenario: str, kernel: Kernel = "uml") -> Scenario:
    """Boot the guest, run that scenario in it, and return what it reported, however it ended.

    One QEMU runs at a time: an emulated machine wants two processors of its own, and with less an agent's Python
    took more than a minute to start.
    """
    with nullcontext() if kernel == "uml" else _one_emulation:
        return _boot(scenario, kernel)


def _boot(scenario: str, kernel: Kernel) -> Scenario:
    with tempfile.TemporaryDirectory(prefix="ktls-agent-kernel-") as directory:
        out, stage = Path(directory, "out"), Path(directory, "stage")
        stage.mkdir()
        roles: tuple[Role, ...] = ("client", "server")
        environment = os.environ | {f"{role.upper()}_AGENT": agent_command(role) for role in roles}
        ran = subprocess.run(
            [*boot_command(kernel, stage=stage), "-o", str(out), f"{scenario}.sh"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        results = out / "results.jsonl"
        steps = parse_steps(results.read_text(errors="replace")) if results.exists() else {}
        output = f"{ran.stdout}\n(the guest's exit status: {ran.returncode})"
        recordings = {path.name: path.read_bytes() for path in sorted(out.glob("recordings/*/*.transcript"))}
        keep_recordings(f"{scenario}-{kernel}", recordings)
        return Scenario(name=scenario, output=output, steps=steps, recordings=recordings)


def keep_recordings(name: str, recordings: dict[str, bytes]) -> None:
    """Keep what was recorded where KEEP_RECORDINGS says; tests/captures/README.md tells what for."""
    folder = os.environ.get("KEEP_RECORDINGS")
    if folder is None:
        return
    place = Path(folder, name)
    place.mkdir(parents=True, exist_ok=True)
    for file, data in recordings.items():
        (place / file).write_bytes(data)
