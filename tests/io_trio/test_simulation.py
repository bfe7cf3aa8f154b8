"""The demo, its ladders, and the machine that it plays on."""

import dataclasses
import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ktls_agent.io_trio.keyring import KeyUnreadable
from ktls_agent.io_trio.simulation import demo as demo_module
from ktls_agent.io_trio.simulation.demo import SCENARIOS, Scenario, Stage, run_demo
from ktls_agent.io_trio.simulation.ladder import Ladder, describe_flight
from ktls_agent.io_trio.simulation.machine import Consumer, Machine, MemoryKeyring, connected_pair
from ktls_agent.sansio.lifecycle import Deadlines
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import ClientAnon, HandshakeRequest, InvalidRequest
from ktls_agent.sansio.steps import (
    Answered,
    Completed,
    Configured,
    Installed,
    Received,
    Reported,
    Sent,
    Started,
)
from ktls_agent.sansio.testing.simulated_kernel import Completion
from ktls_agent.sansio.tls.parameters import HandshakeCompleted
from tests.io_trio.house import (
    Peer,
    as_server,
    client_request,
    open_descriptors,
    running_house,
    server_request,
)
from tests.pki import NOW

# The demo


def test_every_scenario_goes_as_expected_within_a_terminals_width() -> None:
    lines: list[str] = []
    before = open_descriptors()
    assert run_demo(lines.append)
    assert open_descriptors() == before
    text = "\n".join(lines).splitlines()
    assert max(len(line) for line in text) <= 100
    assert text.count("   as expected") == len(SCENARIOS)
    assert text[-1].startswith("9 of 9 scenarios went as expected: 13 requests in ")
    shown = "\n".join(text)
    for words in (
        "NewSessionTicket left for the kernel",
        "DONE EACCES",
        "DONE ETIMEDOUT",
        "expired on",
        "OpenSSL's view: ",
        "the consumer hangs up",
        "client, x509, server.demo",
        "server, x509",
        "server, psk",
        "client, psk",
        "x25519mlkem768; psk",
        "wrong binder",
        "alert unknown_psk_identity",
    ):
        assert words in shown


async def fails(_stage: Stage) -> bool:
    return False


async def breaks(_stage: Stage) -> bool:
    raise EOFError("the peer closed the connection")


async def hangs(stage: Stage) -> bool:
    ours, theirs = await connected_pair()
    with ours, theirs:
        stage.submit(ours, MessageType.SERVERHELLO, Auth.X509)
        await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(
    ("play", "remark"),
    [
        (fails, ""),
        (breaks, "   - the scenario broke off: EOFError the peer closed the connection"),
        (hangs, "   - the scenario broke off: TooSlowError"),
    ],
)
def test_a_scenario_that_goes_wrong_is_told(
    play: demo_module.Play, remark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "SCENARIO_SECONDS", 0.05)
    lines: list[str] = []
    assert not run_demo(lines.append, (Scenario(title="wrong", play=play),))
    assert "   NOT AS EXPECTED\n" in lines
    assert remark in "\n".join(lines)
    assert lines[-1].startswith("0 of 1 scenarios went as expected")


@pytest.mark.parametrize("scenario", [*SCENARIOS[:5], *SCENARIOS[6:]], ids=lambda scenario: scenario.title)
def test_a_scenario_notices_that_the_agent_reports_failure(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = Consumer.complete

    def tell_otherwise(self: Consumer, completion: Completion) -> None:
        complete(self, dataclasses.replace(completion, status=0 if completion.status else errno.EIO))

    monkeypatch.setattr(Consumer, "complete", tell_otherwise)
    assert not run_demo(lambda _: None, (scenario,))


# Ladders


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no record (0 B)"),
        (b"\x16\x03\x03\x00\x04\x01\x00\x00\x00", "ClientHello (9 B)"),
        (b"\x16\x03\x03\x00\x04\x0b\x00\x00\x00", "handshake (9 B)"),
        (b"\x16\x03\x03\x00\x01\x02" + b"\x14\x03\x03\x00\x01\x01", "ServerHello, CCS (12 B)"),
        (b"\x17\x03\x03\x00\x01x" * 3 + b"\x15\x03\x03\x00\x02\x02\x28", "3 encrypted, alert (25 B)"),
        (b"\x63\x00\x00\x00\x00", "type 99 (5 B)"),
    ],
)
def test_names_the_records_of_a_flight(data: bytes, text: str) -> None:
    assert describe_flight(data) == text


def started(request: HandshakeRequest | InvalidRequest) -> Started:
    return Started(request=request, peer_address=None, wall_clock=NOW, deadlines=Deadlines())


def test_draws_the_steps_that_make_a_rung() -> None:
    ladder = Ladder(start=10.0)
    completed = HandshakeCompleted(
        cipher_suite="AES_256_GCM", group="x25519", alpn=None, peer=None, server_name=None
    )
    ladder.observe(10.001, started(ClientAnon(sockfd=7)))
    ladder.observe(10.001, Configured(trust=None, identity=None))
    ladder.observe(10.002, Sent(data=b"\x16\x03\x03\x00\x01\x01"))
    ladder.observe(10.003, Received(data=b"\x16\x03\x03\x00\x01"))
    ladder.observe(10.004, Received(data=b"\x02"))
    ladder.observe(10.005, Received(data=b""))
    ladder.observe(10.006, Completed(result=completed))
    ladder.observe(10.007, Installed(cipher="AES_GCM_256"))
    for report, error in (
        (Reported(status=0, remote_auth=(0x1000,)), 0),
        (Reported(status=5, remote_auth=()), None),
        (Reported(status=0, remote_auth=()), errno.EBUSY),
    ):
        ladder.observe(10.008, report)
        ladder.observe(10.009, Answered(error=error))
    ladder.observe(10.011, started(InvalidRequest(sockfd=8, reason="x")))
    ladder.observe(10.012, started(ClientAnon(sockfd=9, peername="a-very-long-name.example.org")))
    ladder.observe(10.013, Received(data=b"\x16\x03\x03\x00\x01\x02"))
    psk_ke = dataclasses.replace(completed, group=None, psk_identity=b"x")
    ladder.observe(10.014, Completed(result=psk_ke))
    assert [line.replace("-", "").split("|", 1)[-1].split() for line in ladder.lines()] == [
        ["ms", "kernel", "agent", "peer"],
        ["<", "ACCEPT", "|", "|"],
        ["fd", "7,", "client,", "unauth", ">|", "|"],
        ["|", "ClientHello", "(6", "B)", ">|"],
        ["|<", "ServerHello", "(6", "B)", "|"],
        ["|<", "end", "of", "file", "|"],
        ["|", "[AES_256_GCM,", "x25519]", "|"],
        ["<", "TLS_TX,", "TLS_RX:", "AES_GCM_256", "|", "|"],
        ["<", "DONE", "0,", "peer", "key", "0x1000", "|", "|"],
        ["<", "DONE", "EIO,", "no", "answer", "|", "|"],
        ["<", "DONE", "0,", "refused:", "16", "|", "|"],
        ["<", "ACCEPT", "|", "|"],
        ["fd", "8,", "unknown,", "unknown", ">|", "|"],
        ["<", "ACCEPT", "|", "|"],
        ["fd", "9,", "client,", "unauth,", "averylongn...", ">|", "|"],
        ["|<", "ServerHello", "(6", "B)", "|"],
        ["|", "[AES_256_GCM,", "no", "key", "exchange;", "psk]", "|"],
    ]
    assert {len(line) for line in ladder.lines()[1:]} == {98}


# The machine


async def test_a_consumer_that_reads_beyond_the_end_is_told() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        await consumer.wait()
        theirs.close()
        with pytest.raises(EOFError):
            await consumer.receive()


async def test_a_consumer_may_hang_up_on_a_closed_connection(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(server_request())
        theirs.close()
        await consumer.wait()
        consumer.socket.shutdown(2)
        consumer.hang_up()


def test_a_memory_keyring_tells_what_it_lacks() -> None:
    with pytest.raises(KeyUnreadable, match="The key 5 does not exist"):
        MemoryKeyring().read(5)
    with pytest.raises(KeyUnreadable, match="The key 5 does not exist"):
        MemoryKeyring().describe(5)


def test_a_memory_keyring_finds_what_is_linked() -> None:
    keyring = MemoryKeyring()
    always = keyring.add_psk(b"always", b"x")
    inside = keyring.add_psk(b"\xff", b"x", keyring=7)
    assert keyring.search_psk(b"always") == always
    assert keyring.search_psk(b"\xff") is None
    keyring.hold(7)
    assert keyring.search_psk(b"\xff") == inside
    assert keyring.describe(inside) == b"\xff"
    keyring.release(7)
    assert keyring.search_psk(b"\xff") is None


def test_a_memory_keyring_refuses_as_the_kernel_does() -> None:
    keyring = MemoryKeyring()
    serial = keyring.add_psk(b"name", b"x")
    keyring.faults[serial] = errno.EKEYEXPIRED
    for ask in (lambda: keyring.read(serial), lambda: keyring.search_psk(b"name")):
        with pytest.raises(KeyUnreadable, match=f"The key {serial} has expired") as caught:
            ask()
        assert caught.value.error == errno.EKEYEXPIRED


async def test_a_machine_without_listeners_refuses_requests() -> None:
    ours, theirs = await connected_pair()
    with ours, theirs, pytest.raises(OSError, match="no handshake agent listens"):
        Machine().submit(client_request(), ours)


def test_the_demo_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run_demo(lambda _: None, SCENARIOS[:1])
    assert os.listdir(tmp_path) == []  # noqa: PTH208
