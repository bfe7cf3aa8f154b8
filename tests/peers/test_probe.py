"""The probe and real servers: `openssl s_server`, and Python's ssl behind RPC's STARTTLS."""

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ktls_agent.io_trio.probe import probe
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.probe import Mode, Report, Target, make_psk
from ktls_agent.sansio.rpc_tls import encode_starttls_reply
from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.tls.truststore import TrustStore
from tests.peers.live import (
    PATIENCE,
    Files,
    Program,
    find_program,
    free_port,
    listening,
    ssl_context,
    write_files,
)
from tests.pki import NOW
from tests.tls.handshakes import authority

Serve = Callable[[socket.socket], None]
KEY = "ab" * 32


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path, authority().issue(("localhost",)))


def credentials(*, mutual: bool = False) -> Credentials:
    identity = authority().issue(("client.test",)).identity() if mutual else None
    return Credentials(client=RoleCredentials(trust=TrustStore([authority().certificate]), identity=identity))


def look(port: int, mode: Mode = Mode.TLS, own: Credentials | None = None, **more: Any) -> Report:
    target = Target(host="localhost", port=port, mode=mode)
    return trio.run(functools.partial(probe, target, own or credentials(), now=NOW, **more))


@contextmanager
def serving(serve: Serve) -> Iterator[int]:
    """A server for one connection."""
    with listening() as (listener, port):

        def accept() -> None:
            sock, _ = listener.accept()
            sock.settimeout(PATIENCE)
            with sock, contextlib.suppress(OSError):
                serve(sock)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield port
        finally:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def after_starttls(context: ssl.SSLContext) -> Serve:
    def serve(sock: socket.socket) -> None:
        call = sock.recv(1000)[4:]
        reply = encode_starttls_reply(call)
        sock.sendall(reply[:3])
        sock.sendall(reply[3:])
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    return serve


def test_an_nfs_server_is_asked_for_tls(files: Files) -> None:
    with serving(after_starttls(ssl_context(files, server=True))) as port:
        report = look(port, Mode.NFS)
    assert report.exit_code == 0, report.failure
    assert report.starttls is True
    assert report.completed is not None
    assert report.completed.alpn == b"sunrpc"
    assert report.tickets == 2
    assert report.address == "127.0.0.1"
    assert len(report.chain) == 2
    assert list(report.phases) == ["connect", "starttls", "handshake"]


@pytest.mark.parametrize(("mutual", "code"), [(True, 0), (False, 1)])
def test_a_server_that_wants_a_certificate(mutual: bool, code: int, files: Files) -> None:
    with serving(after_starttls(ssl_context(files, server=True, mutual=True))) as port:
        report = look(port, Mode.NFS, credentials(mutual=mutual), listen_seconds=0.5 if mutual else PATIENCE)
    assert report.exit_code == code, report.failure
    assert report.completed is not None  # A server judges its client after its own Finished.
    if not mutual:
        assert report.failure is not None
        assert "certificate_required" in report.failure.reason


def test_a_chain_that_is_refused_is_shown(files: Files) -> None:
    stranger = Credentials(client=RoleCredentials())
    with serving(after_starttls(ssl_context(files, server=True))) as port:
        report = look(port, Mode.NFS, stranger)
    assert report.exit_code == 1
    assert report.failure is not None
    assert report.failure.cause is Cause.NO_TRUST_ANCHORS
    assert len(report.chain) == 2
    assert report.completed is None


def answering(*answers: bytes) -> Serve:
    """Read something, then say that and hang up."""

    def serve(sock: socket.socket) -> None:
        call = sock.recv(4096)
        for answer in answers:
            sock.sendall(answer or encode_starttls_reply(call[4:], b"no"))

    return serve


@pytest.mark.parametrize(
    ("mode", "answers", "cause", "said"),
    [
        (Mode.NFS, (b"",), Cause.PROTOCOL_VIOLATION, "does not offer TLS"),
        (Mode.NFS, (b"HTTP/1.1 400\r\n",), Cause.PROTOCOL_VIOLATION, "does not speak RPC"),
        (Mode.NFS, (), Cause.PROTOCOL_VIOLATION, "closed the connection"),
        (Mode.TLS, (b"HTTP/1.1 400\r\n",), Cause.PROTOCOL_VIOLATION, ""),
        (Mode.TLS, (), Cause.END_OF_FILE, "closed the connection"),
    ],
)
def test_a_server_without_tls(mode: Mode, answers: tuple[bytes, ...], cause: Cause, said: str) -> None:
    with serving(answering(*answers)) as port:
        report = look(port, mode)
    assert report.failure is not None
    assert report.failure.cause is cause
    assert said in report.failure.reason
    assert report.exit_code == 2


def test_a_server_that_is_not_there() -> None:
    report = look(free_port())
    assert report.exit_code == 2
    assert report.address is None
    assert report.failure is not None
    assert "can't be reached" in report.failure.reason


def test_a_name_that_does_not_exist() -> None:
    target = Target(host="nothing.invalid", port=1, mode=Mode.TLS)
    report = trio.run(functools.partial(probe, target, credentials(), now=NOW))
    assert report.failure is not None
    assert report.failure.reason.startswith("nothing.invalid, port 1 can't be reached: ")


def test_a_server_that_says_nothing() -> None:
    done = threading.Event()

    def wait(_: socket.socket) -> None:
        done.wait(PATIENCE)

    with serving(wait) as port:
        report = look(port, Mode.NFS, seconds=0.05)
        done.set()
    assert report.failure is not None
    assert report.failure.cause is Cause.TIMED_OUT
    assert report.failure.reason == "The server did not answer within 0.05 s (starttls)."
    assert report.exit_code == 2


def test_a_server_that_breaks_the_connection() -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(reset) as port:
        report = look(port, Mode.NFS)
    assert report.failure is not None
    assert report.failure.cause is Cause.CONNECTION_LOST
    assert report.failure.reason == "The connection broke (starttls)."
    assert report.exit_code == 2


def test_a_server_that_breaks_the_connection_behind_the_handshake(files: Files) -> None:
    context = ssl_context(files, server=True)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(serve) as port:
        report = look(port, listen_seconds=PATIENCE)
    assert report.exit_code == 0
    assert report.completed is not None


@contextmanager
def s_server(*options: str) -> Iterator[int]:
    openssl = find_program("openssl", "openssl")
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-tls1_3", *options]
    with Program(command) as program:
        yield int(program.wait_for(b"ACCEPT ").rpartition(b":")[2])


def test_a_server_of_openssl(files: Files) -> None:
    with s_server("-cert", str(files.certificate), "-key", str(files.key), "-num_tickets", "3") as port:
        report = look(port)
    assert report.exit_code == 0, report.failure
    assert report.tickets == 3
    assert report.starttls is None


@pytest.mark.parametrize(("known", "code"), [(True, 0), (False, 1)])
def test_a_server_with_a_pre_shared_key(known: bool, code: int) -> None:
    options = ("-nocert", "-psk", KEY, "-psk_identity", "host", "-ciphersuites", "TLS_AES_128_GCM_SHA256")
    with s_server(*options) as port:
        report = look(port, Mode.NVME, psk=make_psk("host", KEY) if known else None)
    assert report.exit_code == code, report.failure
    if known:
        assert report.completed is not None
        assert report.completed.psk_identity == b"host"
    else:
        assert report.failure is not None
        assert "wants a pre-shared key that it knows" in report.failure.reason
