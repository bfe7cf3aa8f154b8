"""The engine on a real socket, and other TLS implementations at its other end.

`connect` drives an engine as io code has to: it never reads more than `bytes_wanted`.  What it returns goes on with the
extracted keys, the way the kernel does, so that data which passes in both directions proves them.  `Program`
runs a peer as a process of its own for as long as a `with` block lasts.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pytest

from ktls_agent.sansio.ktls import TLS_RX, TLS_TX, pack_crypto_info
from ktls_agent.sansio.testing.records import KtlsRecords
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, HandshakeFailed, TlsEvent
from tests import pki
from tests.tls.handshakes import authority

PATIENCE: Final = 20.0
"""Seconds for what takes milliseconds: long enough for a machine that is busy, and still an end."""

NEW_SESSION_TICKET: Final = 4


# The engine's end


@dataclass(kw_only=True)
class Live:
    """A connection after its handshake.

    Attributes:
        sock: The socket, from which nothing behind the handshake was read.
        event: How the handshake ended.
        tickets: How many NewSessionTicket messages were read since.
    """

    sock: socket.socket
    engine: TlsEngine
    event: TlsEvent
    tickets: int = 0
    _records: KtlsRecords | None = None
    _data: bytearray = field(default_factory=bytearray)

    @property
    def completed(self) -> HandshakeCompleted:
        assert isinstance(self.event, HandshakeCompleted), self.event
        return self.event

    @property
    def failed(self) -> HandshakeFailed:
        assert isinstance(self.event, HandshakeFailed), self.event
        return self.event

    @property
    def records(self) -> KtlsRecords:
        """The record layer under the extracted keys, from the structures that the kernel would get."""
        if self._records is None:
            secrets = self.engine.extract_secrets()
            tx, rx = (pack_crypto_info(secrets, direction) for direction in (TLS_TX, TLS_RX))
            self._records = KtlsRecords(tx=tx, rx=rx)
        return self._records

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.records.seal(data))

    def receive(self, count: int) -> bytes:
        """Read so many bytes of application data, and the tickets before them."""
        while len(self._data) < count:
            data = self.sock.recv(65536)
            assert data, f"the peer closed the connection after {bytes(self._data)!r}"
            for record in self.records.receive_data_untrusted(data):
                self._take(record.content_type, record.data)
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _take(self, content_type: int, data: bytes) -> None:
        if content_type == 23:
            self._data += data
            return
        assert content_type == 22, f"record of type {content_type}: {data!r}"
        while data:
            assert data[0] == NEW_SESSION_TICKET, data
            self.tickets += 1
            data = data[4 + int.from_bytes(data[1:4]) :]

    def exchange(self, peer_sends: bytes = b"") -> None:
        """Check that an echoing peer sends back what it gets."""
        message = peer_sends or b"over the keys that were extracted\n"
        self.send(message)
        assert self.receive(len(message)) == message


def connect(sock: socket.socket, engine: TlsEngine) -> Live:
    """Run the handshake of a started engine, reading exactly what it wants."""
    sock.settimeout(PATIENCE)
    while (event := engine.next_event()) is None:
        sock.sendall(engine.data_to_send())
        engine.receive_data(sock.recv(engine.bytes_wanted()))
    try:
        sock.sendall(engine.data_to_send())
    except OSError:
        # A peer that is refused may be gone before the alert.
        assert isinstance(event, HandshakeFailed)
    assert engine.trailing_data() == b"", "bytes behind the handshake were taken from the socket"
    return Live(sock=sock, engine=engine, event=event)


def waiting(sock: socket.socket) -> bytes:
    """What lies in the socket, left there."""
    sock.setblocking(False)
    try:
        return sock.recv(65536, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    finally:
        sock.settimeout(PATIENCE)


# Files for peers that want files


@dataclass(frozen=True, kw_only=True)
class Files:
    certificate: Path
    key: Path
    authority: Path


def write_files(folder: Path, issued: pki.Issued) -> Files:
    files = Files(
        certificate=folder / f"{id(issued)}.pem",
        key=folder / f"{id(issued)}.key",
        authority=folder / "ca.pem",
    )
    files.certificate.write_bytes(issued.certificate_pem())
    files.key.write_bytes(issued.private_key_pem())
    files.authority.write_bytes(authority().pem())
    return files


# Python's ssl, in memory and in a thread


def ssl_context(files: Files, *, server: bool, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.authority)
    context.set_alpn_protocols(["sunrpc"])
    if server or mutual:
        context.load_cert_chain(files.certificate, files.key)
    if server and mutual:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def ssl_peer(
    context: ssl.SSLContext, *, server: bool, greeting: bytes = b""
) -> Iterator[tuple[socket.socket, list[str]]]:
    """An echoing peer of Python's ssl at the other end of a socket pair; sends the greeting at once.

    Its handshake is done in memory, so that what it has to say goes out in as few segments as possible: the
    greeting of a client travels with its Finished.

    Yields:
        The socket, and a list that gets the peer's error if it has one.
    """
    ours, theirs = socket.socketpair()
    problems: list[str] = []
    thread = threading.Thread(target=_echo, args=(context, theirs, server, greeting, problems))
    thread.start()
    try:
        yield ours, problems
    finally:
        ours.close()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the peer does not end"


def _echo(
    context: ssl.SSLContext, sock: socket.socket, server: bool, greeting: bytes, problems: list[str]
) -> None:
    sock.settimeout(PATIENCE)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if server else "server.test"
    tls = context.wrap_bio(incoming, outgoing, server_side=server, server_hostname=name)
    pending = greeting
    with sock:
        while True:
            try:
                tls.do_handshake()
                if pending:
                    tls.write(pending)
                    pending = b""
                tls.write(tls.read(65536))
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                problems.append(str(error))
            _send(sock, outgoing.read())
            if problems or not (data := _receive(sock)):
                return
            incoming.write(data)


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        return


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


# Processes


def find_program(name: str, package: str) -> str:
    """The path of a program that a live-peer test needs; where CI=true it has to be there."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Program:
    """A peer in a process of its own, which `close` ends; its output is kept for the test."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._source = self._process.stdout
        self._output = bytearray()
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def output(self) -> bytes:
        with self._changed:
            return bytes(self._output)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        while data := os.read(self._source.fileno(), 65536):
            with self._changed:
                self._output += data
                self._changed.notify_all()

    def wait_for(self, text: bytes) -> bytes:
        """Wait until the program has printed that, and return what follows it on the line."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while (at := self._output.find(text)) < 0 or b"\n" not in self._output[at:]:
                left = deadline - time.monotonic()
                assert left > 0, f"{text!r} was not printed: {bytes(self._output)!r}"
                assert self._reader.is_alive() or text in self._output, bytes(self._output)
                self._changed.wait(min(left, 0.2))
            return bytes(self._output[at + len(text) :]).partition(b"\n")[0]

    def type(self, text: bytes) -> None:
        """Write to its standard input."""
        self._input.write(text)
        self._input.flush()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE)
        self._input.close()
        self._source.close()


def free_port() -> int:
    """A port that was free just now, for a program that can't choose one by itself."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


@contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield server, server.getsockname()[1]
