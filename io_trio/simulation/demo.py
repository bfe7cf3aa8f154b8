"""`ktls-agent demo`: the agent at work on a simulated machine.

Agent, netlink bytes, TCP connections and handshakes are real; the kernel and its consumers are `Machine`'s.  The
peers are OpenSSL (by Python's `ssl`) or the agent's own other side.  Where a handshake succeeds, both ends exchange
data under the keys that the agent handed over.
"""

import datetime as dt
import errno
import os
import ssl
import tempfile
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from ktls_agent.sansio.netlink.events import CertificateSerials
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.steps import Answered, Step, Trace
from ktls_agent.sansio.testing.pki import Authority, Issued
from ktls_agent.sansio.testing.records import RecordError
from ktls_agent.sansio.testing.simulated_kernel import Completion, PendingRequest
from ktls_agent.sansio.tls.records import ContentType

from ..agent import Agent
from ..handler import Services, wall_clock
from .ladder import Ladder, ready_text
from .machine import Consumer, Machine, connected_pair

SERVER: Final = "server.demo"
CLIENT: Final = "client.demo"
HOST_NQN: Final = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"
SUBSYSTEM_NQN: Final = "nqn.2014-08.org.nvmexpress:demo"
TARGET_KEYRING: Final = 0x77
SCENARIO_SECONDS: Final = 10.0
"""How long a scenario may take before it counts as failed; each takes some milliseconds."""

CANCEL_SECONDS: Final = 0.05
"""When the impatient consumer hangs up."""

_WIDTH: Final = 96
_REQUEST: Final = b"any data, as an RPC call would be"
_REPLY: Final = b"its answer, encrypted with the other direction's key"


@dataclass(slots=True, kw_only=True)
class _MemoryLog:
    """Keeps the log's last lines: they tell why a handshake failed."""

    reasons: list[str] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        """Drop it."""

    def info(self, event: str, **fields: object) -> None:
        """Drop it."""

    def warning(self, event: str, **fields: object) -> None:
        """Keep the reason."""
        self.reasons.append(str(fields.get("reason", event)))

    error = warning


class Stage:
    """What the scenarios share: the machine, the certificates, and the ladders that are drawn."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority("Demo CA", now=dt.datetime.now(dt.UTC), entropy=os.urandom)
        self.server = self.authority.issue(SERVER)
        self.client = self.authority.issue(CLIENT)
        self.expired = self.authority.issue(SERVER, expired=True)
        self.machine = Machine(posted=self._posted)
        self.log = _MemoryLog()
        self.ladders: dict[PendingRequest, Ladder] = {}
        self.remarks: list[str] = []
        self.reported = trio.Event()
        self.requests = 0
        self._directory = directory
        self._trust = self.authority.certificate.public_bytes(Encoding.PEM).decode()

    def services(self) -> Services:
        """Make what the agent runs with."""
        store = self.authority.trust_store()
        credentials = Credentials(
            client=RoleCredentials(trust=store, identity=self.client.identity()),
            server=RoleCredentials(trust=store, identity=self.server.identity()),
        )
        return Services(
            credentials=lambda: credentials,
            installer=self.machine,
            keyring=self.machine.keyring,
            log=self.log,
            trace_for=self._trace_for,
            wall_clock=wall_clock,
        )

    def begin(self) -> None:
        """Forget the scenario before."""
        self.ladders.clear()
        self.remarks.clear()
        self.reported = trio.Event()
        self.log.reasons.clear()
        self.machine.keyring.psks.clear()

    def submit(
        self,
        sock: trio.socket.SocketType,
        role: MessageType,
        auth: Auth,
        certificates: tuple[CertificateSerials, ...] = (),
    ) -> Consumer:
        """Let a consumer ask for a handshake."""
        name = SERVER if role is MessageType.CLIENTHELLO else None
        request = PendingRequest(message_type=role, auth_mode=auth, peername=name, certificates=certificates)
        return self.machine.submit(request, sock)

    def submit_host(self, sock: trio.socket.SocketType, *keys: int) -> Consumer:
        """Let the NVMe host ask, with the serials of its keys."""
        request = PendingRequest(
            message_type=MessageType.CLIENTHELLO, auth_mode=Auth.PSK, timeout_ms=10_000, peer_identities=keys
        )
        return self.machine.submit(request, sock)

    def submit_target(self, sock: trio.socket.SocketType) -> Consumer:
        """Let the NVMe target ask, with the keyring of its port."""
        request = PendingRequest(
            message_type=MessageType.SERVERHELLO,
            auth_mode=Auth.PSK,
            timeout_ms=10_000,
            peer_identities=(0,),
            keyring=TARGET_KEYRING,
        )
        return self.machine.submit(request, sock)

    def openssl(self, purpose: ssl.Purpose, own: Issued | None) -> ssl.SSLContext:
        """Make the settings of an OpenSSL peer."""
        context = ssl.create_default_context(purpose, cadata=self._trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["sunrpc"])
        if purpose is ssl.Purpose.CLIENT_AUTH:
            context.verify_mode = ssl.CERT_OPTIONAL
        if own is not None:
            path = self._directory / "peer.pem"
            path.touch(0o600)
            path.write_bytes(own.certificate_bytes(Encoding.PEM) + own.private_key_bytes(Encoding.PEM))
            context.load_cert_chain(path)
        return context

    def _posted(self, request: PendingRequest) -> None:
        now = trio.current_time()
        ladder = self.ladders[request] = Ladder(start=now)
        ladder.add(now, "kernel", ready_text(request.message_type, request.auth_mode), inward=True)
        self.requests += 1

    def _trace_for(self, sockfd: int) -> Trace:
        ladder = self.ladders[self.machine.descriptors[sockfd].request]

        def trace(step: Step) -> None:
            ladder.observe(trio.current_time(), step)
            if isinstance(step, Answered):
                self.reported.set()

        return trace


Play = Callable[[Stage], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario of the demo.

    Attributes:
        title: Its heading.
        play: Plays it; returns whether everything went as expected.
    """

    title: str
    play: Play


async def _talk(kernel_end: Consumer, peer: trio.SSLStream[trio.SocketStream], stage: Stage) -> bool:
    """Exchange data between a consumer, under the agent's keys, and OpenSSL."""
    await kernel_end.send(_REQUEST)
    heard = await peer.receive_some()
    await peer.send_all(_REPLY)
    answer, skipped = await _next_data(kernel_end)
    tickets = f"; {skipped} NewSessionTicket left for the kernel" if skipped else ""
    stage.remarks.append(f"data exchanged under the installed keys, both ways{tickets}")
    return bytes(heard) == _REQUEST and answer == _REPLY


async def _next_data(consumer: Consumer) -> tuple[bytes, int]:
    """Return the next data, and how many records of another kind came before."""
    skipped = 0
    while (record := await consumer.receive()).content_type != ContentType.APPLICATION_DATA:
        skipped += 1
    return record.data, skipped


async def _against_openssl_server(stage: Stage, certificate: Issued) -> tuple[Completion, bool]:
    ours, theirs = await connected_pair()
    context = stage.openssl(ssl.Purpose.CLIENT_AUTH, certificate)
    with ours, theirs:
        peer = trio.SSLStream(trio.SocketStream(theirs), context, server_side=True)
        consumer = stage.submit(ours, MessageType.CLIENTHELLO, Auth.UNAUTH)
        talked = False
        try:
            await peer.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError) as error:
            stage.remarks.append(f"OpenSSL's view: {_openssl_reason(error)}")
            return await consumer.wait(), False
        completion = await consumer.wait()
        if completion.status == 0:
            talked = await _talk(consumer, peer, stage)
        return completion, talked


def _openssl_reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    return str(getattr(cause, "reason", None) or cause).lower().replace("_", " ")


async def _client_unauth(stage: Stage) -> bool:
    completion, talked = await _against_openssl_server(stage, stage.server)
    return completion.status == 0 and talked


async def _server_expired(stage: Stage) -> bool:
    completion, _ = await _against_openssl_server(stage, stage.expired)
    return completion.status == errno.EACCES


async def _mutual(stage: Stage) -> bool:
    """Both ends are the agent's; the client's certificate comes from a keyring."""
    keyring = stage.machine.keyring
    keys = CertificateSerials(
        certificate=keyring.add(stage.client.certificate_bytes(Encoding.DER)),
        private_key=keyring.add(stage.client.private_key_bytes(Encoding.DER)),
    )
    ours, theirs = await connected_pair()
    with ours, theirs:
        server = stage.submit(theirs, MessageType.SERVERHELLO, Auth.X509)
        client = stage.submit(ours, MessageType.CLIENTHELLO, Auth.X509, certificates=(keys,))
        told_client, told_server = await client.wait(), await server.wait()
        if told_client.status or told_server.status:
            return False
        talked = await _exchange(client, server, stage)
        known = keyring.keys[told_server.remote_auth[0]] == stage.client.certificate_bytes(Encoding.DER)
        return talked and known


def nvme_identity(hash_indicator: int) -> bytes:
    """Make the identity of a retained key, version 0, for SHA-256 (1) or SHA-384 (2)."""
    return f"NVMe0R{hash_indicator:02} {HOST_NQN} {SUBSYSTEM_NQN}".encode()


async def _nvme(stage: Stage, *offered: int, talk: bool = False) -> tuple[Completion, Completion, bool]:
    """An NVMe host and its target, both served by the agent: what each was told, and whether they could talk."""
    ours, theirs = await connected_pair()
    with ours, theirs:
        target = stage.submit_target(theirs)
        host = stage.submit_host(ours, *offered)
        told_host, told_target = await host.wait(), await target.wait()
        talked = False
        if talk and not told_host.status and not told_target.status:
            talked = await _exchange(host, target, stage)
        return told_host, told_target, talked


async def _exchange(one: Consumer, other: Consumer, stage: Stage) -> bool:
    """Exchange data between two consumers."""
    await one.send(_REQUEST)
    heard, _ = await _next_data(other)
    await other.send(_REPLY)
    answer, _ = await _next_data(one)
    stage.remarks.append("data exchanged under the installed keys, both ways")
    return heard == _REQUEST and answer == _REPLY


async def _nvme_connect(stage: Stage) -> bool:
    """The host offers two keys; the target has the second one alone, in the keyring of its port."""
    keyring = stage.machine.keyring
    first = keyring.add_psk(nvme_identity(2), b"\2" * 48, keyring=-1)
    second = keyring.add_psk(nvme_identity(1), b"\1" * 32, keyring=-1)
    targets = keyring.add_psk(nvme_identity(1), b"\1" * 32, keyring=TARGET_KEYRING)
    told_host, told_target, talked = await _nvme(stage, first, second, talk=True)
    return talked and told_host.remote_auth == (second,) and told_target.remote_auth == (targets,)


async def _nvme_wrong_key(stage: Stage) -> bool:
    """Host and target have different keys of one identity."""
    keyring = stage.machine.keyring
    wrong = keyring.add_psk(nvme_identity(1), b"\3" * 32, keyring=-1)
    keyring.add_psk(nvme_identity(1), b"\1" * 32, keyring=TARGET_KEYRING)
    told_host, told_target, _ = await _nvme(stage, wrong)
    return told_host.status == told_target.status == errno.EACCES


async def _nvme_unknown_key(stage: Stage) -> bool:
    """The target has no key of the host's identity."""
    unknown = stage.machine.keyring.add_psk(nvme_identity(2), b"\2" * 48, keyring=-1)
    told_host, told_target, _ = await _nvme(stage, unknown)
    return told_host.status == told_target.status == errno.EACCES


async def _against_openssl_client(stage: Stage, certificate: Issued | None) -> tuple[Completion, bool]:
    ours, theirs = await connected_pair()
    context = stage.openssl(ssl.Purpose.SERVER_AUTH, certificate)
    with ours, theirs:
        peer = trio.SSLStream(trio.SocketStream(theirs), context, server_hostname=SERVER)
        consumer = stage.submit(ours, MessageType.SERVERHELLO, Auth.X509)
        await peer.do_handshake()
        completion = await consumer.wait()
        return completion, completion.status == 0 and await _talk(consumer, peer, stage)


async def _server_with_client_certificate(stage: Stage) -> bool:
    completion, talked = await _against_openssl_client(stage, stage.client)
    return talked and bool(completion.remote_auth)


async def _server_without_client_certificate(stage: Stage) -> bool:
    completion, talked = await _against_openssl_client(stage, None)
    return talked and not completion.remote_auth


async def _cancelled(stage: Stage) -> bool:
    """The server never answers, and the consumer loses its patience."""
    ours, theirs = await connected_pair()
    with ours, theirs:
        consumer = stage.submit(ours, MessageType.CLIENTHELLO, Auth.UNAUTH)
        await trio.sleep(CANCEL_SECONDS)
        hung_up = trio.current_time()
        ladder = stage.ladders[consumer.request]
        ladder.add(hung_up, "kernel", "the consumer hangs up", inward=True)
        consumer.hang_up()
        await stage.reported.wait()  # The kernel tells a consumer that gave up nothing more.
        return trio.current_time() - hung_up < CANCEL_SECONDS


SCENARIOS: Final = (
    Scenario(
        title="mount -o xprtsec=tls: TLS client without a certificate; OpenSSL serves", play=_client_unauth
    ),
    Scenario(title="mount -o xprtsec=mtls: both sides are the agent, with certificates", play=_mutual),
    Scenario(
        title="nfsd: TLS server; OpenSSL connects, with a certificate", play=_server_with_client_certificate
    ),
    Scenario(
        title="nfsd: TLS server; OpenSSL connects, without a certificate",
        play=_server_without_client_certificate,
    ),
    Scenario(title="TLS client; the server's certificate has expired: EACCES", play=_server_expired),
    Scenario(title="TLS client; the server is silent, and the consumer hangs up", play=_cancelled),
    Scenario(
        title="nvme connect --tls: NVMe host and target; of two keys offered, the target has one",
        play=_nvme_connect,
    ),
    Scenario(title="NVMe host and target have different keys of one identity: EACCES", play=_nvme_wrong_key),
    Scenario(title="NVMe target does not know the host's key: EACCES", play=_nvme_unknown_key),
)


def run_demo(write: Callable[[str], object], scenarios: tuple[Scenario, ...] = SCENARIOS) -> bool:
    """Play every scenario.

    Args:
        write: Takes each line.
        scenarios: What to play.

    Returns:
        Whether all went as expected.
    """
    return trio.run(_run_demo, write, scenarios)


async def _run_demo(write: Callable[[str], object], scenarios: tuple[Scenario, ...]) -> bool:
    started = trio.current_time()
    with tempfile.TemporaryDirectory(prefix="ktls-agent-demo-") as directory:
        stage = Stage(Path(directory))
        agent = Agent(stage.services(), open_socket=stage.machine.open_socket)
        ready = trio.Event()
        results = []
        lines: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: agent.run(on_ready=ready.set))
            await ready.wait()
            for number, scenario in enumerate(scenarios, 1):
                lines.append(f"== {number}. {scenario.title}")
                results.append(await _play(stage, scenario))
                _show(stage, as_expected=results[-1], write=lines.append)
            agent.stop()
    for line in lines:  # Not before: who writes may fail, and needs no nursery around.
        write(line)
    seconds = trio.current_time() - started
    write(
        f"{sum(results)} of {len(results)} scenarios went as expected: {stage.requests} requests in {seconds:.1f} s, "
        "no root, no kernel TLS."
    )
    return all(results)


async def _play(stage: Stage, scenario: Scenario) -> bool:
    stage.begin()
    try:
        with trio.fail_after(SCENARIO_SECONDS):
            return await scenario.play(stage)
    except (OSError, EOFError, RecordError, trio.BrokenResourceError, trio.TooSlowError) as error:
        stage.remarks.append(f"the scenario broke off: {type(error).__name__} {error}")
        return False


def _show(stage: Stage, *, as_expected: bool, write: Callable[[str], object]) -> None:
    for ladder in stage.ladders.values():
        for line in ladder.lines():
            write(line)
    for text in (*stage.log.reasons, *stage.remarks):
        write(textwrap.fill(text, _WIDTH, initial_indent="   - ", subsequent_indent="     "))
    write(f"   {'as expected' if as_expected else 'NOT AS EXPECTED'}\n")
