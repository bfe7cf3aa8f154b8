"""Keeping the steps of a request."""

import pytest

from ktls_agent.sansio.capture.recording import MAX_RECORDED_BYTES, MAX_WHOLE_STORE_BYTES, Recording
from ktls_agent.sansio.capture.replay import replay
from ktls_agent.sansio.capture.transcript import MAX_STEPS
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.steps import Closed, Configured, Received, Summarized
from ktls_agent.sansio.tls.truststore import TrustStore
from tests.capture.recorded import recording
from tests.io_trio.house import Peer, as_server, authority, client_request, running_house, server_certificate
from tests.pki import NOW, Authority


def new_recording() -> Recording:
    times = iter(range(1_000_000))
    return Recording(clock=lambda: float(next(times)), now=NOW)


def test_counts_time_from_its_start() -> None:
    made = new_recording()
    made(Closed())
    made(Summarized(fields={"status": "ok"}))
    assert [step.at for step in made.transcript(agent="0", secrets=True).steps] == [1.0, 2.0]
    assert made.over


@pytest.mark.parametrize(
    ("kind", "succeeded"), [("client", True), ("client refuses", False), ("cancelled", False)]
)
def test_knows_whether_the_request_succeeded(kind: str, succeeded: bool) -> None:
    assert recording(kind).succeeded is succeeded


def test_a_done_that_was_refused_is_no_success() -> None:
    made = new_recording()
    made(Summarized(fields={"status": "ok", "done_error": "The kernel refused DONE with EBUSY."}))
    assert not made.succeeded


def test_before_its_end_there_is_no_summary() -> None:
    made = new_recording()
    assert made.summary == {}
    made(Closed())
    assert made.summary == {}
    assert not made.over


def test_keeps_no_more_steps_than_its_bound() -> None:
    made = new_recording()
    for _ in range(MAX_STEPS):
        made(Closed())
    assert len(made.transcript(agent="0", secrets=True).steps) == MAX_STEPS
    made(Closed())
    made(Closed())
    assert made.overflowed
    assert made.transcript(agent="0", secrets=True).steps == ()


def test_keeps_no_more_bytes_than_its_bound() -> None:
    made = new_recording()
    made(Received(data=bytes(MAX_RECORDED_BYTES)))
    assert len(made.transcript(agent="0", secrets=True).steps) == 1
    made(Received(data=b"\0"))
    assert made.overflowed


@pytest.mark.parametrize("known", [True, False])
async def test_of_a_large_store_it_keeps_what_the_peers_chain_can_lead_to(known: bool) -> None:
    others = [Authority(f"Other {number}").certificate for number in range(200)]
    store = TrustStore([*others, *([authority().certificate] if known else [])])
    assert sum(map(len, store.anchors())) > MAX_WHOLE_STORE_BYTES
    credentials = Credentials(client=RoleCredentials(trust=store))
    async with running_house(credentials=lambda: credentials) as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server(server_certificate()))
        assert ((await consumer.wait()).status == 0) is known
        await house.finished()
        transcript = house.recordings[0].transcript(agent="0", secrets=True)
    (configured,) = transcript.of_type(Configured)
    expected = authority().der() if known else store.anchors()[0]
    assert configured.trust == (expected,)
    assert replay(transcript).identical


async def test_a_small_store_is_kept_whole() -> None:
    store = TrustStore([authority().certificate, Authority("Other").certificate])
    credentials = Credentials(client=RoleCredentials(trust=store))
    async with running_house(credentials=lambda: credentials) as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        await consumer.wait()
        await house.finished()
        (configured,) = house.recordings[0].transcript(agent="0", secrets=True).of_type(Configured)
    assert configured.trust == store.anchors()
