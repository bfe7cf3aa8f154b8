"""Transcripts as pcapng: read back with scapy, dissected and decrypted by tshark."""

import io
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import PcapNgReader

from ktls_agent.io_trio.captures import CookedNetlink, parse_capture_untrusted
from ktls_agent.sansio.capture.foreign_netlink import examine_netlink
from ktls_agent.sansio.capture.foreign_records import FlowEnd, Outcome
from ktls_agent.sansio.capture.foreign_tls import examine_stream
from ktls_agent.sansio.capture.framing import inspect_capture_untrusted
from ktls_agent.sansio.capture.keylog import parse_keylog_untrusted
from ktls_agent.sansio.capture.pcapng import MAX_SEGMENT, encode_pcapng, verdict
from ktls_agent.sansio.capture.transcript import TimedStep, Transcript
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.steps import (
    Completed,
    Datagram,
    Failed,
    Interrupted,
    Interruption,
    LocallyFailed,
    Received,
    Reported,
    SecretLogged,
    Sent,
)
from tests.capture.captured import RESULT, began, ended, good, refused, transcript
from tests.capture.openssl import Overheard, Peers


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Overheard:
    return Peers.make(tmp_path_factory.mktemp("openssl")).talk(data=b"x" * 3000)


def packets(data: bytes) -> list[Packet]:
    return list(PcapNgReader(io.BytesIO(data)))  # type: ignore[arg-type]


def segments(data: bytes) -> list[Packet]:
    return [packet for packet in packets(data) if TCP in packet]


# What is in the file


def test_it_reads_back_as_what_was_recorded(heard: Overheard) -> None:
    written = encode_pcapng(good(heard))
    capture = parse_capture_untrusted(written)
    (stream,) = capture.streams
    assert (stream.client, stream.server) == ("192.0.2.1:49165", "192.0.2.20:2049")
    assert stream.to_server.data == heard.said_by(client=True)
    assert stream.to_client.data == heard.said_by(client=False)
    assert (stream.to_server.end, stream.to_server.lost) == (FlowEnd.OPEN, False)
    assert capture.notes == ()
    found = examine_stream(stream, parse_keylog_untrusted(capture.keylog))
    assert found is not None
    assert (found.outcome, found.findings) == (Outcome.COMPLETED, ())
    traffic = examine_netlink(capture.datagrams)
    assert (traffic.family_id, traffic.guessed) == (28, False)
    (request,) = traffic.requests
    assert (request.request, request.status) == (ClientAnon(sockfd=13, peername="server.test"), 0)


def test_times_are_those_of_the_steps(heard: Overheard) -> None:
    recorded = good(heard)
    times = [float(packet.time) for packet in packets(encode_pcapng(recorded))]
    assert times == sorted(times)
    assert times[0] == recorded.recorded.timestamp()
    assert times[-1] == pytest.approx(recorded.recorded.timestamp() + recorded.steps[-2].at, abs=1e-6)


def test_netlink_has_the_header_of_nlmon(heard: Overheard) -> None:
    first = packets(encode_pcapng(good(heard)))[0]
    assert bytes(first)[:16] == bytes.fromhex("00040338" + "00" * 10 + "0010")
    assert isinstance(first, CookedNetlink)


def test_segments_are_bounded_and_numbered(heard: Overheard) -> None:
    next_byte: dict[int, int] = {}
    for packet in segments(encode_pcapng(good(heard))):
        segment = packet[TCP]
        assert len(segment.payload) <= MAX_SEGMENT
        assert segment.seq == next_byte.get(segment.sport, 0)
        assert segment.ack == next_byte.get(segment.dport, 0)
        next_byte[segment.sport] = segment.seq + len(segment.payload) + ("S" in segment.flags)


@pytest.mark.parametrize("peer", ["192.0.2.20", "2001:db8::20"])
def test_checksums_are_right(peer: str, heard: Overheard) -> None:
    recorded = transcript(*began(peer=peer), Sent(data=b"odd"), Received(data=b"even"))
    for packet in segments(encode_pcapng(recorded)):
        again = packet.copy()
        del again[TCP].chksum
        if IP in again:
            del again[IP].chksum
        assert bytes(again) == bytes(packet)


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("192.0.2.20", ("192.0.2.1", "192.0.2.20")),
        ("::ffff:192.0.2.20", ("192.0.2.1", "192.0.2.20")),
        ("2001:db8::20", ("2001:db8::1", "2001:db8::20")),
        ("fe80::20%eth0", ("2001:db8::1", "fe80::20")),
        (None, ("192.0.2.1", "192.0.2.2")),
        ("a path", ("192.0.2.1", "192.0.2.2")),
    ],
)
def test_addresses(peer: str | None, shown: tuple[str, str]) -> None:
    first = segments(encode_pcapng(transcript(*began(peer=peer), Sent(data=b"x"))))[0]
    network = first[IP] if IP in first else first[IPv6]
    assert (network.src, network.dst) == shown


@pytest.mark.parametrize(
    ("request_", "port", "opener"),
    [
        (ClientAnon(sockfd=13), (49165, 2049), "agent"),
        (ClientPsk(sockfd=13, peer_identities=(1,)), (49165, 4420), "agent"),
        (ServerX509(sockfd=13), (49165, 2049), "peer"),
        (ServerPsk(sockfd=13), (49165, 4420), "peer"),
        (InvalidRequest(sockfd=-1, reason="?"), (65535, 2049), "peer"),
    ],
)
def test_who_opens_the_connection_and_to_which_port(
    request_: HandshakeRequest | InvalidRequest, port: tuple[int, int], opener: str
) -> None:
    first = segments(encode_pcapng(transcript(*began(request_), Received(data=b"x"))))[0]
    assert first[TCP].flags == "S"
    assert (first[TCP].sport, first[TCP].dport) == port
    assert (first[IP].src == "192.0.2.1") == (opener == "agent")


def test_a_request_without_tls_has_no_connection() -> None:
    assert segments(encode_pcapng(transcript(*began(), *ended(22)))) == []
    assert packets(encode_pcapng(transcript())) == []
    assert len(packets(encode_pcapng(transcript(Datagram(outgoing=True, data=b"short"))))) == 1


LOST = failure(Cause.CONNECTION_LOST, "The connection broke.")
EXPIRED = failure(Cause.CERTIFICATE_EXPIRED, "The certificate expired.")


@pytest.mark.parametrize(
    ("recorded", "last"),
    [
        (refused(EXPIRED, Sent(data=b"x")), ("192.0.2.1", "FA")),
        (refused(LOST, Sent(data=b"x")), ("192.0.2.20", "RA")),
        (refused(EXPIRED, Sent(data=b"x"), Received(data=b"")), ("192.0.2.20", "FA")),
        (
            transcript(
                *began(), Sent(data=b"x"), Interrupted(by=Interruption.CANCEL, after=1.0), *ended(110)
            ),
            ("192.0.2.1", "FA"),
        ),
        (transcript(*began(), Sent(data=b"x"), LocallyFailed(failure=LOST), *ended(5)), ("192.0.2.20", "RA")),
        (transcript(*began(), Sent(data=b"x"), Completed(result=RESULT), *ended()), ("192.0.2.1", "PA")),
    ],
    ids=["failed", "reset", "end of file", "cancelled", "locally failed", "completed: the kernel goes on"],
)
def test_how_the_connection_ends(recorded: Transcript, last: tuple[str, str]) -> None:
    packet = segments(encode_pcapng(recorded))[-1]
    assert (packet[IP].src, packet[TCP].flags) == last


def test_secrets_are_a_block_of_their_own(heard: Overheard) -> None:
    log = parse_keylog_untrusted(heard.keylog)
    assert parse_keylog_untrusted(inspect_capture_untrusted(encode_pcapng(good(heard))).keylog) == log
    assert inspect_capture_untrusted(encode_pcapng(good(heard, secrets=False))).keylog == b""


# The verdict


@pytest.mark.parametrize(
    ("recorded", "sentence"),
    [
        (transcript(*began()), "The request has no end in this recording."),
        (
            transcript(*began(), Completed(result=RESULT), *ended()),
            "The handshake succeeded: AES_256_GCM, x25519.",
        ),
        (
            transcript(Completed(result=replace(RESULT, group=None)), *ended()),
            "The handshake succeeded: AES_256_GCM, no key exchange.",
        ),
        (refused(EXPIRED), "The handshake failed (EACCES): The certificate expired."),
        (
            transcript(
                Completed(result=RESULT), LocallyFailed(failure=failure(Cause.KTLS_REFUSED, "No.")), *ended(5)
            ),
            "The handshake failed (EIO): No.",
        ),
        (
            transcript(Interrupted(by=Interruption.DEADLINE, after=9.0), *ended(110)),
            "The handshake failed (ETIMEDOUT): its time is over.",
        ),
        (transcript(*ended(9999)), "The handshake failed (9999): no step says why."),
    ],
)
def test_verdict(recorded: Transcript, sentence: str) -> None:
    assert verdict(recorded) == sentence
    assert sentence.encode() in encode_pcapng(recorded)


def test_the_verdict_is_a_comment_on_done(heard: Overheard) -> None:
    commented = [packet for packet in packets(encode_pcapng(good(heard))) if packet.comments]
    assert [packet.comments for packet in commented] == [[b"The handshake succeeded: AES_256_GCM, x25519."]]
    assert commented[0] == packets(encode_pcapng(good(heard)))[-1]


# Whatever a transcript says


@given(
    at=st.floats(allow_nan=False, allow_infinity=False),
    sockfd=st.integers(),
    peer=st.text(),
    data=st.binary(max_size=3000),
    label=st.text(max_size=20),
    status=st.integers(),
)
def test_any_transcript_can_be_written(
    at: float, sockfd: int, peer: str, data: bytes, label: str, status: int
) -> None:
    recorded = transcript(
        *began(ClientAnon(sockfd=sockfd), peer=peer),
        SecretLogged(label=label, client_random=data, secret=data),
        Sent(data=data),
        Received(data=data),
        Failed(failure=replace(EXPIRED, reason=label)),
        Reported(status=status, remote_auth=()),
        *ended(5),
    )
    steps = tuple(TimedStep(at=at, step=timed.step) for timed in recorded.steps)
    capture = parse_capture_untrusted(encode_pcapng(replace(recorded, steps=steps)))
    assert capture.notes == ()
    assert b"".join(stream.to_server.data for stream in capture.streams) == data


# tshark


def _tshark(folder: Path, data: bytes, *options: str) -> str:
    program = shutil.which("tshark")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run these tests: tshark is missing", pytrace=False)
        pytest.skip("tshark is not installed (apt install tshark)")
    path = folder / "capture.pcapng"
    path.write_bytes(data)
    done = subprocess.run(
        [program, "-n", "-r", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NFS = ("-d", "tcp.port==2049,tls")


def test_tshark_dissects_netlink(heard: Overheard, tmp_path: Path) -> None:
    shown = _tshark(tmp_path, encode_pcapng(good(heard)), "-Y", "netlink", "-V")
    assert shown.count("Family: Generic (0x0010)") == 4
    assert shown.count("Family ID: 0x1c (handshake)") == 3
    assert [line.strip() for line in shown.splitlines() if line.strip().startswith("Command: ")] == [
        "Command: CTRL_CMD_NEWFAMILY (1)",
        "Command: 2",
        "Command: 2",
        "Command: 3",
    ]


def test_tshark_finds_nothing_odd_in_tcp(heard: Overheard, tmp_path: Path) -> None:
    written = encode_pcapng(good(heard))
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    odd = "tcp.analysis.flags or tcp.checksum.status == 0 or ip.checksum.status == 0 or _ws.malformed"
    assert _tshark(tmp_path, written, *NFS, *checks, "-Y", odd) == ""


@pytest.mark.parametrize(
    ("port", "options"),
    [(None, NFS), (None, ("-o", "tcp.try_heuristic_first:TRUE")), (443, ())],
    ids=["2049 needs -d", "or a preference", "443 needs nothing"],
)
def test_tshark_decrypts_with_the_secrets(
    port: int | None, options: tuple[str, ...], heard: Overheard, tmp_path: Path
) -> None:
    written = encode_pcapng(good(heard), server_port=port)
    types = _tshark(tmp_path, written, *options, "-T", "fields", "-e", "tls.handshake.type").split()
    assert [number for line in types for number in line.split(",")] == [
        "1",
        "2",
        "8",
        "11",
        "15",
        "20",
        "20",
        "4",
        "4",
    ]
    subjects = _tshark(tmp_path, written, *options, "-V", "-Y", "tls.handshake.type == 11")
    assert "id-at-commonName=server.test" in subjects
    assert _tshark(tmp_path, written, *options, "-x").count("Decrypted TLS (3000 bytes)") == 2


def test_tshark_sees_the_hellos_without_secrets(heard: Overheard, tmp_path: Path) -> None:
    written = encode_pcapng(good(heard, secrets=False))
    types = _tshark(tmp_path, written, *NFS, "-T", "fields", "-e", "tls.handshake.type").split()
    assert types == ["1", "2"]
    assert "TLSv1.3 Record Layer: Application Data" in _tshark(tmp_path, written, *NFS, "-V")


def test_tshark_shows_the_verdict(heard: Overheard, tmp_path: Path) -> None:
    shown = _tshark(tmp_path, encode_pcapng(good(heard)), "-T", "fields", "-e", "frame.comment")
    assert shown.split("\n")[-2] == "The handshake succeeded: AES_256_GCM, x25519."
