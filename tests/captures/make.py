"""python -m tests.captures.make [RECORDINGS]: record the golden captures again; README.md says when.

RECORDINGS is what `KEEP_RECORDINGS=RECORDINGS make test-kernel` has left: requests of real kernels, of which each entry
of `KERNEL` takes the first one that fits.  Without it these stay as they are.  The others are recorded here: with OpenSSL
and GnuTLS as peers of an agent on the simulated machine, and interrupted at each state of the session.
"""

import contextlib
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import trio

from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.recording import Recording
from ktls_agent.sansio.capture.transcript import (
    Transcript,
    decode_transcript_untrusted,
    encode_transcript,
)
from ktls_agent.sansio.lifecycle import State
from ktls_agent.sansio.netlink.events import AcceptReply
from ktls_agent.sansio.netlink.messages import encode_accept, encode_accept_reply
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import ClientAnon, HandshakeRequest, InvalidRequest
from ktls_agent.sansio.steps import Datagram, Interruption, Summarized
from ktls_agent.sansio.summary import summarize
from ktls_agent.sansio.testing.simulated_kernel import FAMILY
from tests.io_trio.house import (
    House,
    Peer,
    as_server,
    client_certificate,
    client_request,
    running_house,
    server_certificate,
    server_request,
)
from tests.io_trio.house import authority as house_authority
from tests.peers.live import Program, find_program, free_port
from tests.pki import NOW, Issued
from tests.test_session import stage

FOLDER: Final = Path(__file__).parent
AGENT: Final = version("ktls-agent")


def write(name: str, transcript: Transcript) -> None:
    """Write one golden capture, and the pcapng that goes with it."""
    (FOLDER / f"{name}.transcript").write_bytes(encode_transcript(transcript))
    (FOLDER / f"{name}.pcapng").write_bytes(encode_pcapng(transcript))
    sys.stdout.write(f"{name}\n")


# From real kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One golden capture of a real kernel's.

    Attributes:
        scenario: The scenario that it is from, with its kernel.
        says: What the fields of the request's summary have in them.
        after: The same, of a request that comes before it in the scenario.
    """

    scenario: str
    says: dict[str, str]
    after: dict[str, str] = field(default_factory=dict)


CLIENT: Final = {"role": "client"}
SERVER: Final = {"role": "server"}
KERNEL: Final = {
    "nfs4-tls-client": Wanted(scenario="nfs-uml", says=CLIENT | {"auth": "unauth", "status": "ok"}),
    "nfs4-tls-server": Wanted(scenario="nfs-uml", says=SERVER | {"status": "ok", "note": "no certificate"}),
    "nfs4-mtls-client": Wanted(scenario="nfs-7", says=CLIENT | {"auth": "x509", "status": "ok"}),
    "nfs4-mtls-server": Wanted(scenario="nfs-7", says=SERVER | {"status": "ok", "subject": "client"}),
    "nfs3-tls-client": Wanted(
        scenario="nfs-7", says=CLIENT | {"auth": "unauth", "status": "ok"}, after=CLIENT | {"auth": "x509"}
    ),
    "nfs3-mtls-client": Wanted(
        scenario="interop-uml",
        says=CLIENT | {"auth": "x509", "status": "ok"},
        after=CLIENT | {"auth": "x509"},
    ),
    "nfs-mtls-server-tlshd-client": Wanted(
        scenario="interop-uml", says=SERVER | {"status": "ok", "subject": "client"}
    ),
    "nfs-tls-client-tlshd-server": Wanted(
        scenario="interop-uml", says=CLIENT | {"auth": "unauth", "status": "ok"}
    ),
    "nvme-sha256-host": Wanted(
        scenario="nvme-7", says=CLIENT | {"auth": "psk", "status": "ok", "psk": "NVMe1R01"}
    ),
    "nvme-sha384-host": Wanted(
        scenario="nvme-7", says=CLIENT | {"auth": "psk", "status": "ok", "psk": "NVMe1R02"}
    ),
    "nvme-sha256-target": Wanted(
        scenario="nvme-7", says=SERVER | {"auth": "psk", "status": "ok", "psk": "NVMe1R01"}
    ),
    "nvme-sha384-target": Wanted(
        scenario="nvme-7", says=SERVER | {"auth": "psk", "status": "ok", "psk": "NVMe1R02"}
    ),
    "nvme-wrong-key-target": Wanted(scenario="nvme-7", says=SERVER | {"cause": "psk_mismatch"}),
    "nvme-wrong-key-host": Wanted(
        scenario="nvme-7", says=CLIENT | {"auth": "psk", "cause": "peer_alert", "reason": "decrypt_error"}
    ),
    "nvme-unknown-key-target": Wanted(scenario="nvme-7", says=SERVER | {"cause": "unknown_psk"}),
    "nvme-expired-key-host": Wanted(scenario="nvme-7", says=CLIENT | {"cause": "psk_unavailable"}),
    "refusal-server-expired": Wanted(
        scenario="certificates-uml", says=CLIENT | {"cause": "certificate_expired", "reason": " expired on "}
    ),
    "refusal-server-not-yet-valid": Wanted(
        scenario="certificates-uml", says=CLIENT | {"cause": "certificate_expired", "reason": "not valid"}
    ),
    "refusal-server-name": Wanted(
        scenario="certificates-uml", says=CLIENT | {"cause": "name_mismatch", "reason": "other.test"}
    ),
    "refusal-server-unknown-ca": Wanted(scenario="certificates-uml", says=CLIENT | {"cause": "unknown_ca"}),
    "refusal-server-purpose": Wanted(scenario="certificates-uml", says=CLIENT | {"cause": "wrong_purpose"}),
    "refusal-client-expired": Wanted(
        scenario="certificates-uml", says=SERVER | {"cause": "certificate_expired"}
    ),
    "refusal-client-unknown-ca": Wanted(scenario="certificates-uml", says=SERVER | {"cause": "unknown_ca"}),
    "refusal-client-purpose": Wanted(scenario="certificates-uml", says=SERVER | {"cause": "wrong_purpose"}),
    "refusal-told-by-the-client": Wanted(
        scenario="certificates-uml", says=SERVER | {"cause": "peer_alert", "reason": "certificate"}
    ),
    "no-client-certificate": Wanted(scenario="certificates-uml", says=CLIENT | {"cause": "no_credentials"}),
    "time-out-client": Wanted(scenario="recovery-uml", says=CLIENT | {"cause": "timed_out"}),
    "time-out-server": Wanted(scenario="recovery-uml", says=SERVER | {"cause": "timed_out"}),
    "cancelled-client": Wanted(scenario="recovery-uml", says=CLIENT | {"cause": "cancelled"}),
    "cancelled-server": Wanted(scenario="recovery-uml", says=SERVER | {"cause": "cancelled"}),
    "server-client-hangs-up": Wanted(scenario="recovery-uml", says=SERVER | {"cause": "end_of_file"}),
}


def take_from_kernels(recordings: Path) -> None:
    """Take what `KERNEL` wants from the recordings of the kernel tests."""
    for name, wanted in KERNEL.items():
        found = _find(wanted, recordings / wanted.scenario)
        if found is None:
            sys.stderr.write(f"{name}: nothing in {recordings / wanted.scenario} fits\n")
        else:
            write(name, found)


def _find(wanted: Wanted, folder: Path) -> Transcript | None:
    behind = not wanted.after
    for path in sorted(folder.glob("*.transcript")):
        transcript = decode_transcript_untrusted(path.read_bytes())
        if behind and _says(transcript, wanted.says):
            return transcript
        behind = behind or _says(transcript, wanted.after)
    return None


def _says(transcript: Transcript, says: dict[str, str]) -> bool:
    (summary,) = transcript.of_type(Summarized)
    return all(value in str(summary.fields.get(name, "")) for name, value in says.items())


# With live peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a peer's program wants in files."""

    folder: Path

    def options(self, issued: Issued, *, certificate: str, key: str, authority: str) -> list[str]:
        """Write a certificate, its key and the authority, and name them by these options."""
        contents = {
            certificate: issued.certificate_pem(),
            key: issued.private_key_pem(),
            authority: house_authority().pem(),
        }
        options = []
        for option, data in contents.items():
            path = self.folder / option.strip("-")
            path.write_bytes(data)
            options += [option, str(path)]
        return options


@contextlib.contextmanager
def openssl(files: Files, issued: Issued, *command: str) -> Iterator[Program]:
    """Run `openssl s_server` or `s_client`."""
    names = files.options(issued, certificate="-cert", key="-key", authority="-CAfile")
    program = find_program("openssl", "openssl")
    with Program([program, *command, "-tls1_3", "-alpn", "sunrpc", *names]) as process:
        yield process


@contextlib.contextmanager
def gnutls(files: Files, issued: Issued, name: str, *options: str) -> Iterator[Program]:
    """Run `gnutls-serv` or `gnutls-cli`."""
    names = files.options(issued, certificate="--x509certfile", key="--x509keyfile", authority="--x509cafile")
    with Program([find_program(name, "gnutls-bin"), "--alpn", "sunrpc", *names, *options]) as process:
        yield process


async def _dial(house: House, port: int) -> None:
    """Let the agent be the client of a program that listens."""
    ours = trio.socket.socket()
    house.sockets.append(ours)
    await ours.connect(("127.0.0.1", port))
    await house.machine.submit(client_request(), ours).wait()


async def _client_of_openssl(house: House, files: Files, *options: str) -> None:
    with openssl(files, server_certificate(), "s_server", "-accept", "127.0.0.1:0", *options) as process:
        await _dial(house, int(process.wait_for(b"ACCEPT ").rpartition(b":")[2]))


async def _client_of_gnutls(house: House, files: Files) -> None:
    port = free_port()
    with gnutls(files, server_certificate(), "gnutls-serv", "--echo", "--port", str(port)) as process:
        process.wait_for(b"port ")
        await _dial(house, port)


async def _serve(house: House, run: Callable[[int], contextlib.AbstractContextManager[Program]]) -> None:
    """Let the agent serve a program that connects."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with run(listener.getsockname()[1]):
            ours, _ = await listener.accept()
            house.sockets.append(ours)
            await house.machine.submit(server_request(), ours).wait()


async def _server_of_openssl(house: House, files: Files, *options: str) -> None:
    await _serve(
        house,
        lambda port: openssl(
            files, client_certificate(), "s_client", "-connect", f"127.0.0.1:{port}", *options
        ),
    )


async def _server_of_gnutls(house: House, files: Files) -> None:
    await _serve(
        house,
        lambda port: gnutls(
            files, client_certificate(), "gnutls-cli", "-p", str(port), "--sni-hostname=server.test",
            "--verify-hostname=server.test", "127.0.0.1",
        ),
    )  # fmt: skip


async def _fragments(house: House, files: Files) -> None:
    """A server each of whose records holds 64 bytes."""
    await _client_of_openssl(house, files, "-split_send_frag", "512", "-max_send_frag", "512")


Play = Callable[[House, Files], Awaitable[None]]
LIVE: Final[dict[str, Play]] = {
    "openssl-server": _client_of_openssl,
    "openssl-client": _server_of_openssl,
    "gnutls-server": _client_of_gnutls,
    "gnutls-client": _server_of_gnutls,
    "hello-retry-request-client": lambda house, files: _client_of_openssl(house, files, "-groups", "P-384"),
    "hello-retry-request-server": lambda house, files: _server_of_openssl(
        house, files, "-groups", "X448:P-384"
    ),
    "fragmented-server": _fragments,
    "fragmented-client": lambda house, files: _server_of_openssl(house, files, "-max_send_frag", "512"),
    "coalesced-server": lambda house, _files: _coalesced(house),
}


async def _coalesced(house: House) -> None:
    """A server whose whole flight is one record: the engine's own."""
    consumer, theirs = await house.ask(client_request())
    await Peer().shake_hands(theirs, as_server())
    await consumer.wait()


async def _record_live(play: Play) -> Transcript:
    with tempfile.TemporaryDirectory() as folder:
        async with running_house() as house:
            await play(house, Files(folder=Path(folder)))
            await house.finished()
        return house.recordings[0].transcript(agent=AGENT, secrets=True)


# Interrupted at each state


def interrupt(role: str, state: State, by: Interruption) -> Transcript:
    """Record a session that is interrupted as soon as it is in a state."""
    recording = Recording(clock=map(float, range(1000)).__next__, now=NOW)
    made = stage(role, recording)
    for datagram in _accept_datagrams(made.session.request.request):
        recording(datagram)
    action = None if state is State.QUEUED else made.start()
    while action is not None and made.session.request.state is not state:
        action = made.answer(action)
    made.run(made.session.interrupt(by, now=200.0))
    recording(Summarized(fields=summarize(made.session, {})))
    return recording.transcript(agent=AGENT, secrets=True)


def _accept_datagrams(request: HandshakeRequest | InvalidRequest) -> Iterator[Datagram]:
    asked = encode_accept(family_id=FAMILY.family_id, sequence=7)
    reply = AcceptReply(
        sockfd=request.sockfd,
        message_type=MessageType.CLIENTHELLO if isinstance(request, ClientAnon) else MessageType.SERVERHELLO,
        auth_mode=Auth.UNAUTH if isinstance(request, ClientAnon) else Auth.X509,
        peername=getattr(request, "peername", None),
    )
    yield Datagram(outgoing=True, data=asked)
    yield Datagram(outgoing=False, data=encode_accept_reply(reply, family_id=FAMILY.family_id, sequence=7))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_from_kernels(Path(sys.argv[1]))
    for name, play in LIVE.items():
        write(name, trio.run(_record_live, play))
    for role in ("client", "server"):
        for by in Interruption:
            for state in (State.QUEUED, State.HANDSHAKING, State.INSTALLING, State.REPORTING):
                write(f"{by.name.lower()}-while-{state.value}-{role}", interrupt(role, state, by))
