"""The command line, as people and service managers meet it."""

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from ktls_agent.cli import main as main_module
from ktls_agent.cli.main import group, main
from ktls_agent.io_trio.agent import AgentError
from ktls_agent.io_trio.netlink import HandshakeNetlink, KernelSocket
from ktls_agent.io_trio.recorder import RecordingOptions
from ktls_agent.sansio.netlink.events import FamilyResolved


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(group, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("arguments", [("-v",), ("--version",), ("run", "-v"), ("run", "--version")])
def test_prints_its_version(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments) == (0, f"ktls-agent {version('ktls-agent')}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_explains_itself(flag: str) -> None:
    code, out, _ = invoke(flag)
    assert code == 0
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()] == [
        "run",
        "status",
        "check",
        "probe",
        "explain",
        "replay",
        "demo",
    ]
    code, out, _ = invoke("run", flag)
    assert code == 0
    for option in ("-c, --config FILE", "-s, --stderr", "-v, --version", "-h, --help"):
        assert option in out


def test_an_unknown_command_is_refused() -> None:
    code, _, err = invoke("walk")
    assert code == 2
    assert "No such command 'walk'" in err


def test_completion_does_not_print_the_version() -> None:
    context = group.make_context("ktls-agent", ["--version"], resilient_parsing=True)
    main_module.print_version(context, group.params[0], value=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "The configuration @ can't be read: No such file or directory."),
        ("[debug\n", "@, line 1: expected a group's name in brackets, as in [debug], not '[debug'."),
        (
            "[authenticate.server]\nx509.certificate=/nonexistent\nx509.private_key=/nonexistent\n",
            "The server's certificate /nonexistent can't be read: No such file or directory.",
        ),
    ],
)
def test_a_configuration_that_can_not_be_used_is_one_line(
    text: str | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "tlshd.conf"
    if text is not None:
        path.write_text(text)
    assert invoke("run", "-s", "-c", str(path)) == (
        78,
        "",
        f"ktls-agent: {sentence.replace('@', str(path))}\n",
    )


def test_an_agent_that_can_not_serve_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path | None, **options: object) -> int:
        assert path is None
        assert options == {
            "to_stderr": True,
            "log_format": "json",
            "record": None,
            "status_socket": Path("/run/x"),
            "allow_readable_keys": False,
            "count": 1,
        }
        raise AgentError("This kernel has no handshake service.", exit_code=69)

    monkeypatch.setattr("ktls_agent.io_trio.service.run_workers", refuse)
    assert invoke("run", "--stderr", "--log-format", "json", "--status-socket", "/run/x") == (
        69,
        "",
        "ktls-agent: This kernel has no handshake service.\n",
    )


def test_a_stop_in_order_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktls_agent.io_trio.service.run_service", lambda *_, **__: None)
    assert invoke("run") == (0, "", "")


@pytest.mark.parametrize(("as_expected", "code"), [(True, 0), (False, 1)])
def test_the_demo_tells_by_its_status(as_expected: bool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(write: object) -> bool:
        return as_expected

    monkeypatch.setattr("ktls_agent.io_trio.simulation.demo.run_demo", play)
    assert invoke("demo")[0] == code


def test_a_stream_that_breaks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(write: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ktls_agent.io_trio.simulation.demo.run_demo", play)
    monkeypatch.setattr(sys, "argv", ["ktls-agent", "demo"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "ktls-agent: No space left on device\n"


COMMAND = "import sys; from ktls_agent.cli.main import main; sys.exit(main())"


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_is_quick_since_it_imports_nothing() -> None:
    command = "import sys; from ktls_agent.cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    heavy = ("trio", "structlog", "cryptography", "tlslite", "pyroute2")
    check = f"print('loaded', [name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", command + check, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in errors


def test_the_demo_is_quick_and_says_so_at_its_end() -> None:
    started = time.monotonic()
    done = run_process("demo")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].endswith("no root, no kernel TLS.")
    assert time.monotonic() - started < 15  # about one second on an idle machine


async def test_run_on_a_kernel_without_the_service_is_one_line(tmp_path: Path) -> None:
    asker, listener = KernelSocket(), KernelSocket()
    netlink = HandshakeNetlink(
        asker=asker, listener=listener, accepted=lambda *_: None, complain=lambda _: None
    )
    family = await netlink.resolve()
    asker.close()
    listener.close()
    if isinstance(family, FamilyResolved):
        pytest.skip("this kernel has the handshake service: an agent would take its requests")
    path = tmp_path / "tlshd.conf"
    path.touch()
    done = run_process("run", "-s", "-c", str(path), "--workers", "2")
    assert done.returncode == 69
    assert done.stdout == ""
    first, *_others, failed = done.stderr.splitlines()  # (the second worker may be stopped at any point)
    assert f"configuration={path}" in first
    assert failed.startswith("ktls-agent: This kernel (")
    assert "CONFIG_NET_HANDSHAKE" in failed


def test_what_is_recorded_needs_a_place() -> None:
    code, _, err = invoke("run", "--only", "failures")
    assert code == 2
    assert "--only and --record-secrets go with --record DIR" in err
    code, _, err = invoke("run", "--record-secrets")
    assert code == 2


def test_recording_options_reach_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        "ktls_agent.io_trio.service.run_workers", lambda *_, record, **__: seen.append(record)
    )
    assert invoke("run", "--record", str(tmp_path), "--only", "failures", "--record-secrets")[0] == 0
    assert invoke("run", "--record", str(tmp_path))[0] == 0
    assert seen == [
        RecordingOptions(directory=tmp_path, only_failures=True, secrets=True),
        RecordingOptions(directory=tmp_path, only_failures=False, secrets=False),
    ]


def test_a_status_socket_tells_of_one_process() -> None:
    code, _, err = invoke("run", "--status-socket", "/run/x", "--workers", "2")
    assert code == 2
    assert "--status-socket tells of one process: it goes with --workers 1" in err


def test_readable_keys_are_allowed_by_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        "ktls_agent.io_trio.service.run_workers",
        lambda *_, allow_readable_keys, **__: seen.append(allow_readable_keys),
    )
    assert invoke("run", "--allow-readable-keys")[0] == 0
    assert seen == [True]
