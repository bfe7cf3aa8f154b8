"""`run --record`: transcripts in a directory."""

import os
from pathlib import Path

import pytest
import trio

from ktls_agent.io_trio import recorder as recorder_module
from ktls_agent.io_trio.recorder import (
    MAX_WAITING,
    Recorder,
    RecordingImpossible,
    RecordingOptions,
    rotate,
    write_privately,
)
from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.transcript import MAX_STEPS, Transcript, decode_transcript_untrusted
from ktls_agent.sansio.steps import Closed, Step, Summarized
from tests.io_trio.house import Log, Peer, as_server, client_request, running_house
from tests.pki import NOW


def options(directory: Path, *, only_failures: bool = False, secrets: bool = False) -> RecordingOptions:
    return RecordingOptions(directory=directory, only_failures=only_failures, secrets=secrets)


def make(made: RecordingOptions, log: Log | None = None) -> Recorder:
    return Recorder(made, log=log or Log(), wall_clock=lambda: NOW)


def transcripts(directory: Path) -> dict[str, Transcript]:
    """The transcripts in a directory, by their names."""
    return {
        path.name: decode_transcript_untrusted(path.read_bytes())
        for path in sorted(directory.glob("*.transcript"))
    }


async def record(recorder: Recorder, *requests: tuple[Step, ...]) -> None:
    """Let requests take their steps, and write what there is to write."""
    for steps in requests:
        trace = recorder.trace_for(3)
        for step in steps:
            trace(step)
    recorder.stop()
    with trio.fail_after(5):
        await recorder.run()


OK = Summarized(fields={"role": "client", "peer": "nfs.example", "address": "192.0.2.1", "status": "ok"})
FAILED = Summarized(fields={"role": "server", "address": "fe80::1%eth0", "status": "EACCES"})


@pytest.mark.parametrize("secrets", [True, False])
async def test_a_request_of_the_agents_is_a_file(tmp_path: Path, secrets: bool) -> None:
    directory = tmp_path / "a" / "b"
    recorder = make(options(directory, secrets=secrets))
    async with running_house(trace_for=recorder.trace_for) as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        await consumer.wait()
        await house.finished()
    await record(recorder)
    ((name, transcript),) = transcripts(directory).items()
    assert name == f"20260601T120000.000000Z-{os.getpid()}-1-client-server.test-127.0.0.1-ok.transcript"
    assert transcript.secrets is secrets
    assert transcript.recorded == NOW
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / name).stat().st_mode & 0o777 == 0o600
    pcapng = (directory / name).with_suffix(".pcapng")
    assert pcapng.read_bytes() == encode_pcapng(transcript)
    assert pcapng.stat().st_mode & 0o777 == 0o600


async def test_names_say_what_is_in_them_in_harmless_characters(tmp_path: Path) -> None:
    hostile = Summarized(fields={"role": "client", "peer": "../../etc/passwd\n" + "x" * 200, "status": "ok"})
    await record(make(options(tmp_path)), (OK,), (FAILED,), (hostile,))
    first, second, third = (name.partition("Z-")[2].split("-", 2)[2] for name in transcripts(tmp_path))
    assert first == "client-nfs.example-192.0.2.1-ok.transcript"
    assert second == "server-fe80_1_eth0-EACCES.transcript"
    assert third.startswith("client-.._.._etc_passwd_xxx")
    assert len(third) < 80


async def test_failures_alone_can_be_recorded(tmp_path: Path) -> None:
    await record(make(options(tmp_path, only_failures=True)), (OK,), (FAILED,))
    assert [transcript.steps[-1].step for transcript in transcripts(tmp_path).values()] == [FAILED]


async def test_what_is_too_long_is_told_instead(tmp_path: Path) -> None:
    log = Log()
    await record(make(options(tmp_path), log), (Closed(),) * MAX_STEPS + (OK,))
    assert transcripts(tmp_path) == {}
    assert log.lines == [
        ("warning", "not recorded", {"reason": "The handshake had more steps or bytes than are kept."})
    ]


async def test_what_comes_too_fast_is_dropped_and_told(tmp_path: Path) -> None:
    log = Log()
    await record(make(options(tmp_path), log), *[(OK,)] * (MAX_WAITING + 2))
    assert len(transcripts(tmp_path)) == MAX_WAITING
    assert [fields["reason"] for _, _, fields in log.lines] == [
        "Writing does not keep up with the handshakes."
    ] * 2


async def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    recorder = make(options(tmp_path), log)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(recorder_module, "write_privately", full)
    await record(recorder, (OK,), (OK,))
    assert log.lines == [("warning", "not recorded", {"reason": "No space left on device: x"})] * 2


def test_a_file_that_can_not_be_finished_is_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    with pytest.raises(OSError, match="Is a directory"):
        write_privately(tmp_path / "there", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


# The directory


def test_others_may_not_write_to_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RecordingImpossible, match=r"Others may write to the directory .* use chmod go-w"):
        make(options(tmp_path))


def test_it_has_to_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingImpossible, match="can't be used: File exists"):
        make(options(tmp_path / "file"))


def test_it_has_to_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # (root may write anywhere)
    with pytest.raises(RecordingImpossible, match="may not be written to"):
        make(options(tmp_path))


def test_what_an_agent_left_unfinished_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.transcript.part").touch()
    (tmp_path / "else").touch()
    make(options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["else"]


def put(directory: Path, *sizes: int) -> None:
    for number, size in enumerate(sizes):
        time = f"202601{number + 1:02}"
        (directory / f"{time}.transcript").write_bytes(bytes(size // 2))
        (directory / f"{time}.pcapng").write_bytes(bytes(size - size // 2))
    (directory / "something.else").write_bytes(bytes(100))


@pytest.mark.parametrize(
    ("most", "most_bytes", "kept"),
    [
        (9, 999, ["20260101", "20260102", "20260103"]),
        (2, 999, ["20260102", "20260103"]),
        (9, 50, ["20260102", "20260103"]),
        (9, 30, ["20260103"]),
        (9, 1, ["20260103"]),  # The newest stays, whatever its size.
    ],
)
def test_the_oldest_go_when_they_are_too_many_or_too_large(
    tmp_path: Path, most: int, most_bytes: int, kept: list[str]
) -> None:
    put(tmp_path, 10, 20, 30)
    rotate(tmp_path, most=most, most_bytes=most_bytes)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(
        ["something.else", *(f"{name}.{end}" for name in kept for end in ("transcript", "pcapng"))]
    )
