"""Captures of others on the command line: text and exit status."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.packet import Raw

from ktls_agent.cli import foreign
from ktls_agent.cli.foreign import describe_foreign
from ktls_agent.cli.main import group
from ktls_agent.io_trio.captures import CookedNetlink
from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.netlink.events import AcceptReply
from ktls_agent.sansio.netlink.messages import encode_accept
from tests.capture.captured import good
from tests.capture.openssl import Overheard, Peers
from tests.capture.streams import ETHERNET, PREAMBLE, capture_of, tcp_packets
from tests.capture.test_foreign_netlink import accept, done, error, reply, resolved

FOREIGN = Path(__file__).parent.parent / "captures" / "foreign"


def run(*arguments: str | Path) -> tuple[int, list[str], str]:
    result = CliRunner().invoke(group, ["replay", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout.splitlines(), result.stderr


def run_case(name: str) -> list[str]:
    """The lines about one of the captures of tlshd, without those that name the files."""
    keylog = FOREIGN / f"{name}.keys"
    files = [FOREIGN / f"{name}.{kind}.pcap" for kind in ("tcp", "nl-client", "nl-server")]
    code, lines, err = run(*files, *(("--keylog", keylog) if keylog.exists() else ()))
    assert (code, err) == (0, "")
    assert not any("WRONG" in line for line in lines)
    return lines[3:]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Overheard:
    return Peers.make(tmp_path_factory.mktemp("openssl")).talk()


def test_a_good_mount_with_tlshd_on_both_sides() -> None:
    assert run_case("nfs-mtls") == [
        "netlink: family 28 (as the kernel says), 1 READY, 1 request, 0 ACCEPTs in vain",
        "netlink: family 28 (as the kernel says), 1 READY, 1 request, 0 ACCEPTs in vain",
        "request ClientX509, descriptor 4, peer server.test of process 1139, accepted 2026-11-24 16:27:01.340+00:00",
        "  DONE 0, peer keys 0 after 19.9 ms; ACCEPT 2.8 ms after READY",
        "  TLS 10.9.0.2:928 -> 10.9.0.1:2049, 2026-11-24 16:27:01.344+00:00, 11.2 ms",
        "    completed",
        "    AES_256_GCM, secp256r1, SNI server.test, no ALPN",
        "    server's certificate: CN=server, issued by CN=Test ca, until 2040-01-01T00:00:00+00:00",
        "    client's certificate: CN=client, issued by CN=Test ca, until 2040-01-01T00:00:00+00:00",
        "    records behind it: 19 of the client, 19 of the server",
        "    kTLS: AES_GCM_256, client from records 0 (TX) and 0 (RX), server from records 0 (TX) and 0 (RX)",
        "    right: The hellos agree: version, suite, key share and session id.",
        "    right: The server's CertificateVerify is valid (ecdsa_secp256r1_sha256).",
        "    right: The server's Finished is right for the messages before it.",
        "    right: The client's CertificateVerify is valid (ecdsa_secp256r1_sha256).",
        "    right: The client's Finished is right for the messages before it.",
        "    right: The client's records behind the handshake open (19).",
        "    right: The server's records behind the handshake open (19).",
        "    not checked: Whether the certificates are to be trusted: that takes trust anchors.",
        "request ServerX509, descriptor 4 of process 1140, accepted 2026-11-24 16:27:01.347+00:00",
        "  DONE 0, peer keys 4294967295 after 10.0 ms; ACCEPT 10.0 ms after READY",
        "  TLS 10.9.0.2:928 -> 10.9.0.1:2049, as above",
        "1 handshake, 2 requests: nothing that could be checked is wrong",
    ]


@pytest.mark.parametrize(
    ("name", "outcomes", "statuses"),
    [
        ("nfs-server-expired", ["broken off"], ["ETIMEDOUT", "EACCES"]),
        (
            "nfs-client-otherca",
            ["refused: the server sent access_denied"] * 2,
            ["EACCES", "0, peer keys 0", "EACCES", "0, peer keys 0"],
        ),
        ("nfs-server-cancel", ["broken off"] * 3 + ["completed"], ["ETIMEDOUT"] * 3 + ["0", "EIO"]),
        ("nfs-client-cancel", ["broken off"], ["ETIMEDOUT"] * 3),
    ],
)
def test_refusals_and_cancels_of_tlshd(name: str, outcomes: list[str], statuses: list[str]) -> None:
    lines = [line.strip() for line in run_case(name)]
    assert [line for line in lines if line.startswith(("broken off", "refused", "completed"))] == outcomes
    assert [line[5:].partition(" after")[0] for line in lines if line.startswith("DONE")] == statuses


def test_requests_for_which_no_handshake_was_captured() -> None:
    assert run_case("nfs-client-cancel").count("  no handshake in the captures fits") == 2


def test_without_secrets_the_hellos_are_told() -> None:
    code, lines, _ = run(FOREIGN / "nfs-mtls.tcp.pcap")
    assert code == 0
    assert "  outcome not known: what follows the hellos is encrypted" in lines
    assert "  AES_256_GCM, secp256r1, SNI server.test, no ALPN" in lines


def test_our_own_pcapng_brings_its_secrets(heard: Overheard, tmp_path: Path) -> None:
    path = tmp_path / "own.pcapng"
    path.write_bytes(encode_pcapng(good(heard)))
    code, lines, _ = run(path)
    assert code == 0
    assert "    completed" in lines
    assert "    AES_256_GCM, x25519, SNI server.test, no ALPN, 2 tickets" in lines
    assert any(line.endswith("server from records 2 (TX) and 0 (RX)") for line in lines)


def test_a_resumption_names_its_key(tmp_path: Path) -> None:
    peers = Peers.make(tmp_path)
    peers.server.set_ecdh_curve("secp521r1")
    again = peers.talk(session=peers.talk().session)
    path = tmp_path / "tcp.pcap"
    path.write_bytes(capture_of(tcp_packets([*PREAMBLE, *again.turns]), link=ETHERNET))
    _, lines, _ = run(path, "--keylog", peers.log)
    (negotiated,) = [line for line in lines if "AES_256_GCM" in line and "SNI" in line]
    assert "secp521r1, by HelloRetryRequest" in negotiated
    assert "1 pre-shared key offered, chosen " in negotiated


def test_what_is_wrong_is_the_exit_status(heard: Overheard, tmp_path: Path) -> None:
    turns = [(by_client, said.replace(b"server.test", b"server.tesT")) for by_client, said in heard.turns]
    path, keylog = tmp_path / "tcp.pcap", tmp_path / "keys"
    path.write_bytes(capture_of(tcp_packets(turns), link=ETHERNET))
    keylog.write_bytes(heard.keylog + b"?\n")
    code, lines, _ = run(path, "--keylog", keylog)
    assert code == 1
    assert "  WRONG: The server's Finished is wrong for the messages before it." in lines
    assert "key log: 1 line that can't be read" in lines
    assert lines[-1] == "1 handshake, 0 requests: something is wrong"


def _netlink(path: Path, *datagrams: bytes) -> Path:
    packets = []
    for at, data in enumerate(datagrams):
        packet = CookedNetlink() / Raw(data)
        packet.time = float(at)
        packets.append(packet)
    path.write_bytes(capture_of(packets, linktype=253))
    return path


def test_odd_requests_are_told(tmp_path: Path) -> None:
    last = done(status=None)
    path = _netlink(
        tmp_path / "nl.pcap",
        *resolved(),
        *(accept(), reply(AcceptReply(sockfd=4)), last, error(last, 16)),
        *(accept(), reply(AcceptReply(sockfd=5, message_type=1, auth_mode=1))),
    )
    code, lines, _ = run(path)
    assert code == 1
    assert "request invalid, descriptor 4 of process 955, accepted 1970-01-01 00:00:03.000+00:00" in lines
    assert "  DONE without a status, answered EBUSY after 1000.0 ms" in lines
    assert "request ClientAnon, descriptor 5 of process 955, accepted 1970-01-01 00:00:07.000+00:00" in lines
    assert "  DONE is not in the capture" in lines
    assert "  WRONG: The request has no MESSAGE_TYPE." in lines


def test_netlink_of_others_is_told(tmp_path: Path) -> None:
    _, lines, _ = run(_netlink(tmp_path / "nl.pcap", encode_accept(family_id=30, sequence=1)))
    assert lines[1] == "netlink: no message of the handshake family"


def test_a_family_that_was_guessed_is_told(tmp_path: Path) -> None:
    guessable = reply(AcceptReply(sockfd=4, message_type=1, auth_mode=1))
    _, lines, _ = run(_netlink(tmp_path / "nl.pcap", accept(), guessable, done()))
    assert lines[1].startswith("netlink: family 28 (guessed from its messages), 0 READYs, 1 request")


def test_several_handshakes_that_fit_are_told(heard: Overheard, tmp_path: Path) -> None:
    both = [*tcp_packets(heard.turns), *tcp_packets(heard.turns, isn=90_000)]
    for packet in both:
        packet.time = 5.0
    tcp = tmp_path / "tcp.pcap"
    tcp.write_bytes(capture_of(both, link=ETHERNET))
    asked = reply(AcceptReply(sockfd=4, message_type=1, auth_mode=1))
    _, lines, _ = run(tcp, _netlink(tmp_path / "nl.pcap", *resolved(), accept(), asked, *resolved(), done()))
    assert "  2 handshakes fit by time; this one is the likeliest" in lines


def test_a_capture_that_was_cut_off_has_a_note(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes((FOREIGN / "nfs-mtls.tcp.pcap").read_bytes()[:-3])
    code, lines, _ = run(path)
    assert code == 0
    assert lines[1].startswith("  note: The file is cut off in a packet at its end")


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (None, 66, "@ can't be read: No such file or directory."),
        (b"no capture", 65, "@: It is neither a pcap nor a pcapng file."),
    ],
)
def test_files_that_can_not_be_used(content: bytes | None, code: int, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pcap"
    if content is not None:
        path.write_bytes(content)
    written, complaints = list[str](), list[str]()
    assert describe_foreign([path], [], write=written.append, complain=complaints.append) == code
    assert (written, complaints) == ([], [sentence.replace("@", str(path))])


def test_a_key_log_that_can_not_be_read(tmp_path: Path) -> None:
    code, lines, err = run(FOREIGN / "nfs-mtls.tcp.pcap", "--keylog", tmp_path)
    assert (code, lines, err) == (66, [], f"The key log {tmp_path} can't be read: Is a directory.\n")


def test_without_scapy_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ktls_agent.io_trio.captures")
    monkeypatch.setitem(sys.modules, "scapy", None)
    monkeypatch.setitem(sys.modules, "scapy.config", None)
    assert run(FOREIGN / "nfs-mtls.tcp.pcap") == (
        69,
        [],
        "Captures are read with scapy, which is not installed: pip install ktls-agent[capture]\n",
    )


def test_another_missing_module_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ktls_agent.io_trio.captures", None)
    with pytest.raises(ModuleNotFoundError):
        describe_foreign([FOREIGN / "nfs-mtls.tcp.pcap"], [], write=print, complain=print)


def test_times_may_be_any() -> None:
    assert foreign._time(1e18) == "1000000000000000000.000 s"
