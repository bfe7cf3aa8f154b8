"""The runner: what it asks of atheris, what it counts and tells, and how a broken target is replayed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import __main__ as command_line
from fuzz import corpora, runner
from fuzz.target import Target
from fuzz.targets import TARGETS

ROOT = Path(__file__).parent.parent
STATISTICS = "noise\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     617\n"
NAME = "crypto_info"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("CORPORA", "REGRESSIONS", "WORKING", "CRASHES"):
        monkeypatch.setattr(corpora, folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage that was measured before."""
    every = {("ktls.py", line) for line in range(8)}
    reached = {"-": range(4), NAME: range(6), "nvme_identity": (0, 7)}
    monkeypatch.setattr(runner, "_lines", lambda name: ({("ktls.py", line) for line in reached[name]}, every))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "fuzz", *arguments), cwd=ROOT, check=False, capture_output=True, text=True
    )


class Worker:
    """Stands for the process that runs atheris."""

    def __init__(self, *, code: int = 0, crash: bool = False) -> None:
        self.code = code
        self.crash = crash
        self.arguments: tuple[str | Path, ...] = ()

    def __call__(self, _: Target, *arguments: str | Path) -> tuple[int, str]:
        self.arguments = arguments
        options = {name: value for name, _, value in (str(item).partition("=") for item in arguments)}
        if self.crash:
            (Path(options["-artifact_prefix"]) / "crash-0123").write_bytes(b"boom")
        if "-merge" in options:
            merged = next(item for item in arguments if isinstance(item, Path))
            for name, data in (("one", b"longer"), ("two", b"short")):
                (merged / name).write_bytes(data)
        else:
            corpora.unpack([b"new"], Path(arguments[-1]))
        return self.code, STATISTICS


# Running


@pytest.mark.usefixtures("quick")
def test_a_table_tells_what_came_of_each_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker()
    monkeypatch.setattr(runner, "_worker", worker)
    assert runner.fuzz([NAME, "nvme_identity"], 10) == 0
    assert "-max_total_time=5" in worker.arguments
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith(NAME)).split()
    assert row[1] == "1234"
    assert row[3:] == ["75.0", "%", "1", "0"]
    everything = next(line for line in out.splitlines() if line.startswith("all ")).split()
    assert everything == ["all", "2468", "87.5", "%"]
    assert "of 8 statements" in out
    assert "50.0 % of them run when the modules are imported" in out


@pytest.mark.usefixtures("quick")
def test_a_target_that_broke_is_told_with_the_way_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folders: Path
) -> None:
    monkeypatch.setattr(runner, "_worker", Worker(code=77, crash=True))
    assert runner.fuzz([NAME], 1) == 1
    crash = folders / "CRASHES" / NAME / "crash-0123"
    assert f"python -m fuzz replay {NAME} {crash}" in capsys.readouterr().out
    assert crash.read_bytes() == b"boom"


@pytest.mark.usefixtures("quick")
def test_an_error_without_an_input_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_worker", Worker(code=1))
    assert runner.fuzz([NAME], 1) == 1
    assert f"{NAME} ended in an error and left no input" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_fuzzing_starts_with_seeds_the_committed_corpus_and_regressions(
    monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    corpora.commit(NAME, [b"committed"])
    (folders / "REGRESSIONS" / NAME).mkdir(parents=True)
    (folders / "REGRESSIONS" / NAME / "what-it-found").write_bytes(b"regression")
    monkeypatch.setattr(runner, "_worker", Worker())
    runner.fuzz([NAME], 1)
    found = set(corpora.contents(folders / "WORKING" / NAME).values())
    assert found == {b"committed", b"regression", b"new", *TARGETS[NAME].seeds()}


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (make fuzz)"
)
@pytest.mark.usefixtures("quick")
def test_atheris_runs_a_target(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert runner.fuzz([NAME], 1) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{NAME} "))
    assert int(row.split()[1]) > 100


# Coverage


def test_coverage_counts_what_inputs_reach_beyond_the_imports() -> None:
    def lines(target: str) -> int:
        command = (sys.executable, "-m", "fuzz.cover", target)
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        found = json.loads(done.stdout)
        assert "tls/engine.py" in found
        return sum(len(ran) for _, ran in found.values())

    assert 1000 < lines("-") < lines(NAME)


# Minimising


def test_minimising_rewrites_the_corpus_with_what_the_merge_keeps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpora.commit(NAME, [b"old"])
    monkeypatch.setattr(runner, "_worker", Worker())
    assert runner.minimise([NAME]) == 0
    assert corpora.committed(NAME) == [b"short", b"longer"]
    assert f"{NAME}: 1 inputs before, 2 now, 11 bytes" in capsys.readouterr().out


def test_of_too_many_inputs_short_and_long_ones_are_kept() -> None:
    inputs = [bytes(length) for length in range(100)]
    assert [len(data) for data in runner._spread(inputs, 4)] == [0, 25, 50, 75]
    assert runner._spread(inputs[::-1], 100) == inputs


def test_a_merge_that_failed_leaves_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    corpora.commit(NAME, [b"old"])
    monkeypatch.setattr(runner, "_worker", Worker(code=1))
    assert runner.minimise([NAME]) == 1
    assert corpora.committed(NAME) == [b"old"]


# The command line


def test_replaying_an_input_that_holds(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\0")
    done = command("replay", NAME, str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: {NAME} holds\n")


def test_replaying_an_input_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\0")
    broken = Target(run=lambda _: next(iter(())), seeds=list)
    monkeypatch.setattr(runner, "TARGETS", {NAME: broken})
    with pytest.raises(StopIteration):
        runner.replay(NAME, [path])


def test_an_unknown_target_is_told_with_the_known_ones() -> None:
    done = command("run", "1", "nonsense")
    assert done.returncode == 2
    assert "no such target: nonsense; there are netlink_datagram, " in done.stderr


def test_the_targets_are_listed_with_what_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "list"])
    assert command_line.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TARGETS)
    assert all(target.run.__doc__ for target in TARGETS.values())
