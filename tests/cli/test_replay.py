"""`ktls-agent replay`."""

import json
from pathlib import Path

import pytest

from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.transcript import encode_transcript
from tests.capture.recorded import transcript
from tests.cli.test_cli import invoke


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def tampered() -> bytes:
    lines = encode_transcript(transcript("client")).splitlines()
    for number, line in enumerate(lines):
        members = json.loads(line)
        if members.get("step") == "Reported":
            lines[number] = json.dumps({**members, "status": 5}).encode()
    return b"\n".join(lines)


def test_what_comes_out_as_it_was_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a", encode_transcript(transcript("client")))
    code, out, err = invoke("replay", path, path)
    assert (code, err) == (0, "")
    count = len(transcript("client").steps)
    assert out == f"{path}: identical in all {count} steps, as recorded by version 0.1.0\n" * 2


def test_a_difference_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a", tampered())
    code, out, err = invoke("replay", path)
    assert (code, err) == (1, "")
    assert [line.removeprefix(f"{path}: ") for line in out.splitlines()][1:] == [
        "  Reported.status",
        "    recorded: 5",
        "    replayed: 0",
    ]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (None, 66, "It can't be read: No such file or directory."),
        (b"nonsense", 65, "Line 1 is not part of a transcript: JSONDecodeError"),
        (b"{}", 65, "It is no ktls-agent transcript of version 1"),
    ],
)
def test_what_is_no_transcript_is_one_line(tmp_path: Path, data: bytes | None, code: int, said: str) -> None:
    path = tmp_path / "a"
    if data is not None:
        path.write_bytes(data)
    found, out, err = invoke("replay", str(path))
    assert (found, out) == (code, "")
    assert err.startswith(f"{path}: {said}")
    assert err.count("\n") == 1


def test_the_worst_file_decides(tmp_path: Path) -> None:
    good = write(tmp_path / "good", encode_transcript(transcript("client")))
    bad = write(tmp_path / "bad", tampered())
    assert invoke("replay", bad, good)[0] == 1
    assert invoke("replay", bad, str(tmp_path / "none"), good)[0] == 66


def test_what_others_captured_is_checked(tmp_path: Path) -> None:
    captured = write(tmp_path / "a.pcapng", encode_pcapng(transcript("server")))
    code, out, err = invoke("replay", captured)
    assert (code, err) == (0, "")
    assert "CN=server.test" in out
    assert "AES_256_GCM" in out
    recorded = write(tmp_path / "a", encode_transcript(transcript("client")))
    code, both, _ = invoke("replay", captured, recorded)
    assert code == 0
    assert "identical in all" in both
    assert out in both


def test_a_key_log_without_a_capture_is_a_mistake(tmp_path: Path) -> None:
    recorded = write(tmp_path / "a", encode_transcript(transcript("client")))
    code, _, err = invoke("replay", recorded, "--keylog", recorded)
    assert code == 2
    assert "--keylog goes with captures" in err
