"""An agent on a simulated machine, and peers for it: what the tests of the Trio side share."""

import datetime as dt
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from ktls_agent.io_trio.agent import Agent
from ktls_agent.io_trio.handler import Services
from ktls_agent.io_trio.simulation.machine import Consumer, Machine, connected_pair
from ktls_agent.sansio.capture.differences import describe_replay
from ktls_agent.sansio.capture.recording import Recording
from ktls_agent.sansio.capture.replay import byte_by_byte, replay, whole
from ktls_agent.sansio.capture.transcript import decode_transcript_untrusted, encode_transcript
from ktls_agent.sansio.ktls import TLS_RX, TLS_TX, pack_crypto_info
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.steps import Step, Trace
from ktls_agent.sansio.testing.records import KtlsRecords
from ktls_agent.sansio.testing.simulated_kernel import PendingRequest
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    ClientParameters,
    ClientPskParameters,
    HandshakeCompleted,
    HandshakeFailed,
    KeysRequested,
    Parameters,
    PreSharedKey,
    ServerParameters,
    TlsEvent,
)
from ktls_agent.sansio.tls.truststore import TrustStore
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier
from tests.pki import NOW, Authority, Issued

SERVER_NAME = "server.test"


@functools.cache
def authority() -> Authority:
    return Authority("Test Root")


@functools.cache
def server_certificate() -> Issued:
    return authority().issue((SERVER_NAME,))


@functools.cache
def client_certificate() -> Issued:
    return authority().issue(("client.test",))


@functools.cache
def trust() -> TrustStore:
    return TrustStore([authority().certificate])


def full_credentials() -> Credentials:
    return Credentials(
        client=RoleCredentials(trust=trust(), identity=client_certificate().identity()),
        server=RoleCredentials(trust=trust(), identity=server_certificate().identity()),
    )


def client_request(auth: Auth = Auth.UNAUTH, **more: Any) -> PendingRequest:
    fields: dict[str, Any] = {"peername": SERVER_NAME, **more}
    return PendingRequest(message_type=MessageType.CLIENTHELLO, auth_mode=auth, **fields)


def server_request(auth: Auth = Auth.X509, **more: Any) -> PendingRequest:
    return PendingRequest(message_type=MessageType.SERVERHELLO, auth_mode=auth, **more)


@dataclass
class Log:
    """Keeps every line: level, event, fields."""

    lines: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))

    def finished(self) -> list[tuple[str, dict[str, object]]]:
        """The level and fields of each request's line."""
        return [(level, fields) for level, event, fields in self.lines if event.startswith("handshake ")]


@dataclass
class House:
    """A running agent and what it runs on."""

    agent: Agent
    machine: Machine
    log: Log
    steps: list[tuple[int, Step]]
    recordings: list[Recording]
    sockets: list[trio.socket.SocketType] = field(default_factory=list)

    async def ask(self, request: PendingRequest) -> tuple[Consumer, trio.socket.SocketType]:
        """Let a consumer ask on a new connection; returns it and the peer's end."""
        ours, theirs = await self.connect()
        return self.machine.submit(request, ours), theirs

    async def connect(self) -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
        """Connect two sockets, which are closed with the house."""
        pair = await connected_pair()
        self.sockets.extend(pair)
        return pair

    async def finished(self, count: int = 1) -> tuple[str, dict[str, object]]:
        """Wait until that many requests are over; the last one's log line."""
        await until(lambda: len(self.log.finished()) >= count)
        return self.log.finished()[-1]


@asynccontextmanager
async def running_house(
    *,
    machine: Machine | None = None,
    credentials: Callable[[], Credentials] = full_credentials,
    wall_clock: Callable[[], dt.datetime] = lambda: NOW,
    drain_seconds: float = 5.0,
    replays: bool = True,
    **services: Any,
) -> AsyncIterator[House]:
    """Run an agent; stop it at the end, and fail if it left a consumer or a descriptor behind.

    Each request is recorded, and has to come out of its transcript again in the end, unless `replays` is false.
    """
    machine = machine or Machine()
    log, steps = Log(), list[tuple[int, Step]]()
    recordings: list[Recording] = []

    def trace_for(sockfd: int) -> Trace:
        recording = Recording(clock=trio.current_time, now=NOW)
        recordings.append(recording)

        def trace(step: Step) -> None:
            steps.append((sockfd, step))
            recording(step)

        return trace

    made = Services(
        **{
            "credentials": credentials,
            "installer": machine,
            "keyring": machine.keyring,
            "log": log,
            "wall_clock": wall_clock,
            "trace_for": trace_for,
            **services,
        }
    )
    agent = Agent(made, open_socket=machine.open_socket, drain_seconds=drain_seconds)
    house = House(agent=agent, machine=machine, log=log, steps=steps, recordings=recordings)
    try:
        async with trio.open_nursery() as nursery:
            await start_agent(nursery, agent)
            yield house
            agent.stop()
            agent.stop()
    finally:
        for sock in house.sockets:
            sock.close()
    assert machine.sockets == []
    if replays:
        for recording in recordings:
            check_replay(recording)


def check_replay(recording: Recording) -> None:
    """Fail unless a recorded request comes out of its transcript as it was, with secrets and without, however cut."""
    assert recording.over
    for secrets in (True, False):
        made = recording.transcript(agent="0", secrets=secrets)
        transcript = decode_transcript_untrusted(encode_transcript(made))
        assert transcript == made
        for cut in (None, whole, byte_by_byte):
            result = replay(transcript, cut=cut)
            assert result.identical, "\n".join(describe_replay(transcript, result))
        assert result.engine_ran or not secrets


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; fail if it is not within five (perhaps virtual) seconds."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nobody tells it
            await trio.sleep(0.001)


def open_descriptors() -> set[str]:
    """Every descriptor of this process and what it leads to."""
    return {f"{path.name} {path.readlink()}" for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


async def start_agent(nursery: trio.Nursery, agent: Agent) -> None:
    ready = trio.Event()
    nursery.start_soon(functools.partial(agent.run, on_ready=ready.set))
    await ready.wait()


@dataclass
class Peer:
    """The other end of a handshake: the engine, on a Trio socket.

    Attributes:
        psks: What a server with pre-shared keys knows.
        asked: The identities that a client offered.
    """

    event: TlsEvent | None = None
    records: KtlsRecords | None = None
    psks: tuple[PreSharedKey, ...] = ()
    asked: tuple[bytes, ...] = ()

    async def shake_hands(self, sock: trio.socket.SocketType, parameters: Parameters) -> None:
        engine = TlsEngine(parameters, entropy=lambda size: bytes(range(1, 33))[:size].ljust(size, b"\7"))
        engine.start()
        while True:
            event = engine.next_event()
            output = engine.data_to_send()
            if output:
                await send_all(sock, output)
            if isinstance(event, KeysRequested):
                self.asked = event.identities
                engine.provide_keys(self.psks)
                continue
            if event is not None:
                break
            engine.receive_data(await sock.recv(engine.bytes_wanted()))
        self.event = event
        if isinstance(event, HandshakeCompleted):
            secrets = engine.extract_secrets()
            tx, rx = (pack_crypto_info(secrets, direction) for direction in (TLS_TX, TLS_RX))
            self.records = KtlsRecords(tx=tx, rx=rx)

    @property
    def completed(self) -> HandshakeCompleted:
        assert isinstance(self.event, HandshakeCompleted), self.event
        return self.event

    @property
    def failed(self) -> HandshakeFailed:
        assert isinstance(self.event, HandshakeFailed), self.event
        return self.event


async def send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await sock.send(data) :]


def as_server(certificate: Issued | None = None) -> ServerParameters:
    """A server that asks for a client certificate and takes none, too."""
    identity = (certificate or server_certificate()).identity()
    return ServerParameters(identities=(identity,), verifier=ClientCertificateVerifier(trust(), now=NOW))


def as_client(certificate: Issued | None = None) -> ClientParameters:
    """A client that presents `certificate`, if any."""
    return ClientParameters(
        verifier=ServerCertificateVerifier(trust(), name=SERVER_NAME, now=NOW),
        server_name=SERVER_NAME,
        identity=None if certificate is None else certificate.identity(),
    )


def nvme_identity(number: int, subsystem: str = "nqn.sub") -> bytes:
    """An identity, version 0, for SHA-256 (1) or SHA-384 (2)."""
    return f"NVMe0R{number:02} nqn.host {subsystem}".encode()


def psk(identity: bytes = nvme_identity(1), secret: bytes = b"\1" * 32) -> PreSharedKey:
    """A pre-shared key; its length says its hash."""
    return PreSharedKey(
        identity=identity, secret=secret, hash_name="sha384" if len(secret) == 48 else "sha256"
    )


def offering(*keys: PreSharedKey) -> ClientPskParameters:
    """A client with pre-shared keys."""
    return ClientPskParameters(keys=keys)


def host_request(*serials: int, **more: Any) -> PendingRequest:
    """What the NVMe host asks for."""
    return client_request(Auth.PSK, peername=None, peer_identities=serials, **more)


def target_request(*serials: int, **more: Any) -> PendingRequest:
    """What the NVMe target asks for; it sends 0 for the peer's identity."""
    return server_request(Auth.PSK, peer_identities=serials or (0,), **more)


def reset(sock: trio.socket.SocketType) -> None:
    """Close a connection with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
