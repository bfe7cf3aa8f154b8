"""The simulated kernel follows the kernel's rules, spoken to with the agent's own client and with raw bytes."""

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.netlink.client import GenlClient, Outgoing
from ktls_agent.sansio.netlink.events import (
    Accepted,
    AcceptReply,
    CertificateSerials,
    DoneAnswered,
    KernelError,
    MalformedMessage,
    NetlinkEvent,
    NothingPending,
    Ready,
)
from ktls_agent.sansio.netlink.messages import encode_attribute, encode_message
from ktls_agent.sansio.netlink.spec import Auth, Command, MessageType
from ktls_agent.sansio.testing import simulated_kernel
from ktls_agent.sansio.testing.simulated_kernel import (
    FAMILY,
    ChangeAnswer,
    Completion,
    DropReady,
    LoseDoneAnswer,
    PendingRequest,
    RefuseCommand,
    SimulatedKernel,
    pending_limit,
)

MTLS = PendingRequest(
    message_type=MessageType.CLIENTHELLO,
    auth_mode=Auth.X509,
    timeout_ms=5000,
    peer_identities=(1, 2),
    certificates=(CertificateSerials(certificate=3, private_key=4),),
    peername="server.example",
    keyring=5,
)


@dataclass
class Pair:
    """A client wired to a simulated kernel, like h11's ConnectionPair."""

    kernel: SimulatedKernel
    client: GenlClient = field(default_factory=GenlClient)

    def say(self, outgoing: Outgoing) -> list[NetlinkEvent]:
        answers = self.kernel.receive_datagram(outgoing.datagram)
        return [event for answer in answers for event in self.client.receive_datagram_untrusted(answer)]

    def accept(self) -> NetlinkEvent:
        (event,) = self.say(self.client.accept())
        return event

    def accepted(self) -> int:
        event = self.accept()
        assert isinstance(event, Accepted)
        assert event.reply.sockfd is not None
        return event.reply.sockfd

    def done(self, sockfd: int, status: int = 0, remote_auth: tuple[int, ...] = ()) -> DoneAnswered:
        (event,) = self.say(self.client.done(sockfd=sockfd, status=status, remote_auth=remote_auth))
        assert isinstance(event, DoneAnswered)
        return event


def descriptors() -> Callable[[PendingRequest], int]:
    numbers = iter(range(10, 10000))
    return lambda _request: next(numbers)


def make(**options: Any) -> Pair:
    pair = Pair(SimulatedKernel(**{"install": descriptors(), **options}))
    pair.say(pair.client.resolve_family())
    pair.kernel.join_group(FAMILY.groups["tlshd"])
    return pair


@pytest.fixture
def pair() -> Pair:
    return make()


# The way of a request.


def test_a_request_goes_from_ready_to_done(pair: Pair) -> None:
    assert pair.client.receive_datagram_untrusted(pair.kernel.post(MTLS)) == [Ready(handler_class=1)]
    assert list(pair.kernel.pending) == [MTLS]
    event = pair.accept()
    assert isinstance(event, Accepted)
    assert event.reply == AcceptReply(
        sockfd=10,
        message_type=1,
        timeout_ms=5000,
        auth_mode=3,
        peer_identities=(1, 2),
        certificates=(CertificateSerials(certificate=3, private_key=4),),
        peername="server.example",
        keyring=5,
    )
    assert not pair.kernel.pending
    assert pair.done(10, status=13, remote_auth=(8, 9)).error == 0
    assert list(pair.kernel.completions) == [Completion(request=MTLS, status=13, remote_auth=(8, 9))]


def test_requests_are_accepted_in_order_until_nothing_is_pending(pair: Pair) -> None:
    first, second = PendingRequest(label="1"), PendingRequest(label="2")
    pair.kernel.post(first)
    pair.kernel.post(second)
    one, two = pair.accepted(), pair.accepted()
    assert isinstance(pair.accept(), NothingPending)
    pair.done(two)
    pair.done(one)
    assert [completion.request for completion in pair.kernel.completions] == [second, first]


def test_the_callback_hears_of_completions() -> None:
    heard: list[Completion] = []
    pair = make(completed=heard.append)
    pair.kernel.post(MTLS)
    pair.done(pair.accepted())
    assert heard == list(pair.kernel.completions)


def test_only_the_latest_completions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_kernel, "MAX_COMPLETIONS", 2)
    pair = make()
    for status in range(3):
        pair.kernel.post(PendingRequest())
        pair.done(pair.accepted(), status=status)
    assert [completion.status for completion in pair.kernel.completions] == [1, 2]


# What the consumer sees.


def test_a_consumer_gets_esrch_while_nobody_listens() -> None:
    kernel = SimulatedKernel(install=descriptors())
    with pytest.raises(OSError, match="no handshake agent listens") as caught:
        kernel.post(MTLS)
    assert caught.value.errno == errno.ESRCH
    assert not kernel.pending


def test_a_listener_that_left_does_not_listen(pair: Pair) -> None:
    pair.kernel.leave_group(FAMILY.groups["none"])
    pair.kernel.post(PendingRequest())
    for _ in range(2):
        pair.kernel.leave_group(FAMILY.groups["tlshd"])
    with pytest.raises(OSError, match="no handshake agent"):
        pair.kernel.post(PendingRequest())
    pair.kernel.join_group(FAMILY.groups["none"])
    with pytest.raises(OSError, match="no handshake agent"):
        pair.kernel.post(PendingRequest())


def test_there_are_no_other_groups(pair: Pair) -> None:
    with pytest.raises(OSError, match="no multicast group 77") as caught:
        pair.kernel.join_group(77)
    assert caught.value.errno == errno.ENOENT


def test_a_consumer_gets_eagain_past_the_limit() -> None:
    pair = make(pending_limit=2)
    pair.kernel.post(PendingRequest())
    pair.kernel.post(PendingRequest())
    with pytest.raises(BlockingIOError, match="2 handshake requests wait"):
        pair.kernel.post(PendingRequest())
    pair.accepted()
    assert pair.kernel.post(PendingRequest())


@pytest.mark.parametrize(
    ("gibibytes", "limit"), [(0.5, 3), (1, 3), (2.4, 6), (4, 10), (10.8, 27), (20, 50), (512, 50)]
)
def test_the_limit_grows_with_memory(gibibytes: float, limit: int) -> None:
    assert pending_limit(int(gibibytes * 2**18)) == limit


# Cancelling.


def test_a_cancelled_request_is_gone(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    assert pair.kernel.cancel(MTLS)
    assert isinstance(pair.accept(), NothingPending)
    assert not pair.kernel.cancel(MTLS)


def test_done_after_a_cancel_is_answered_with_0_and_completes_nothing(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    sockfd = pair.accepted()
    assert pair.kernel.cancel(MTLS)
    assert pair.done(sockfd).error == 0
    assert not pair.kernel.completions


def test_a_completed_request_can_not_be_cancelled(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    pair.done(pair.accepted())
    assert not pair.kernel.cancel(MTLS)


def test_a_second_done_is_answered_with_0_and_changes_nothing(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    sockfd = pair.accepted()
    assert [pair.done(sockfd, status=status).error for status in (0, 13)] == [0, 0]
    assert [completion.status for completion in pair.kernel.completions] == [0]


# Refusals.


def test_done_about_an_unknown_descriptor_is_ebadf(pair: Pair) -> None:
    assert pair.done(99).error == errno.EBADF


def test_done_about_a_closed_descriptor_is_ebadf(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    sockfd = pair.accepted()
    pair.kernel.close(sockfd)
    pair.kernel.close(sockfd)
    assert pair.done(sockfd).error == errno.EBADF


@pytest.mark.parametrize("error", [errno.EBUSY, errno.ENOTSOCK])
def test_done_about_another_descriptor_is_what_it_is(error: int) -> None:
    assert make(other_descriptor=lambda _: error).done(1).error == error


def test_a_descriptor_that_can_not_be_installed_fails_the_request() -> None:
    def refuse(_request: PendingRequest) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    pair = make(install=refuse)
    pair.kernel.post(MTLS)
    event = pair.accept()
    assert isinstance(event, KernelError)
    assert event.error == errno.EMFILE
    assert list(pair.kernel.completions) == [Completion(request=MTLS, status=errno.EIO)]


def test_a_kernel_without_the_family_answers_enoent() -> None:
    kernel = SimulatedKernel(install=descriptors(), family_present=False)
    pair = Pair(kernel)
    (answer,) = pair.say(pair.client.resolve_family())
    assert answer == KernelError(sequence=1, command="resolve", error=errno.ENOENT, text="")
    assert error_of(kernel, request(FAMILY.family_id, Command.ACCEPT)) == errno.EOPNOTSUPP


def request(message_type: int, command: int, *attributes: bytes, flags: int = 1) -> bytes:
    body = struct.pack("=BBH", command, 1, 0) + b"".join(attributes)
    return encode_message(message_type, body, flags=flags, sequence=1)


def u32(number: int, value: int) -> bytes:
    return encode_attribute(number, struct.pack("=I", value))


def error_of(kernel: SimulatedKernel, datagram: bytes) -> int:
    (answer,) = kernel.receive_datagram(datagram)
    return -int(struct.unpack_from("=i", answer, 16)[0])


ACCEPT, DONE, CTRL = Command.ACCEPT, Command.DONE, 16
ID = FAMILY.family_id


@pytest.mark.parametrize(
    ("datagram", "error"),
    [
        pytest.param(encode_message(ID, b"", flags=1), errno.EINVAL, id="no generic header"),
        pytest.param(request(0x99, 1), errno.ENOENT, id="unknown family"),
        pytest.param(request(ID, 9), errno.EOPNOTSUPP, id="unknown command"),
        pytest.param(request(ID, Command.READY), errno.EOPNOTSUPP, id="READY from the agent"),
        pytest.param(request(CTRL, 9), errno.EOPNOTSUPP, id="unknown controller command"),
        pytest.param(request(CTRL, 3), errno.EINVAL, id="GETFAMILY without a name"),
        pytest.param(
            request(CTRL, 3, encode_attribute(2, b"other\0")), errno.ENOENT, id="another family's name"
        ),
        pytest.param(request(ID, ACCEPT), errno.EINVAL, id="ACCEPT without a handler class"),
        pytest.param(request(ID, ACCEPT, u32(2, 3)), errno.ERANGE, id="handler class past the last"),
        pytest.param(request(ID, ACCEPT, u32(2, 0)), errno.EAGAIN, id="handler class without requests"),
        pytest.param(request(ID, ACCEPT, u32(2, 1), u32(1, 0)), errno.EINVAL, id="SOCKFD in ACCEPT"),
        pytest.param(request(ID, ACCEPT, u32(2, 1), u32(3, 0)), errno.EINVAL, id="MESSAGE_TYPE in ACCEPT"),
        pytest.param(request(ID, DONE, u32(1, 0)), errno.EINVAL, id="DONE without a descriptor"),
        pytest.param(
            request(ID, DONE, u32(1, 4096), u32(2, 10)), errno.ERANGE, id="status past the last errno"
        ),
        pytest.param(request(ID, DONE, u32(2, 10), u32(4, 0)), errno.EINVAL, id="unknown attribute in DONE"),
        pytest.param(request(ID, DONE, u32(2, 10), u32(0, 0)), errno.EINVAL, id="attribute 0 in DONE"),
        pytest.param(request(ID, DONE, encode_attribute(2, b"")), errno.EINVAL, id="wrong size"),
        pytest.param(request(ID, DONE, u32(2, 10), b"\0\0\0\0"), errno.EINVAL, id="trailing bytes"),
    ],
)
def test_validates_as_the_kernel_does(pair: Pair, datagram: bytes, error: int) -> None:
    pair.kernel.post(MTLS)
    pair.accepted()
    assert error_of(pair.kernel, datagram) == error
    assert not pair.kernel.completions


def test_done_without_a_status_completes_as_eio(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    pair.accepted()
    assert pair.kernel.receive_datagram(request(ID, DONE, u32(2, 10))) == []
    assert [completion.status for completion in pair.kernel.completions] == [errno.EIO]


def test_an_acknowledgement_follows_a_reply_if_it_was_asked_for(pair: Pair) -> None:
    pair.kernel.post(MTLS)
    reply, acknowledgement = pair.kernel.receive_datagram(request(ID, ACCEPT, u32(2, 1), flags=5))
    assert struct.unpack_from("=IH", reply)[1] == ID
    assert struct.unpack_from("=i", acknowledgement, 16)[0] == 0


@pytest.mark.parametrize(
    "datagram",
    [b"", b"abc", bytes(16), request(ID, ACCEPT, u32(2, 1), flags=0), encode_message(2, b"", flags=1)],
)
def test_passes_over_what_is_no_request(pair: Pair, datagram: bytes) -> None:
    assert pair.kernel.receive_datagram(datagram) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "Unknown attribute type, at byte 20 of the request"),
        ({"capped_ack": True}, "Unknown attribute type, at byte 20 of the request"),
        ({"extended_ack": False}, ""),
        ({"extended_ack": False, "capped_ack": True}, ""),
    ],
)
def test_the_sockets_options_shape_an_error(options: dict[str, bool], text: str) -> None:
    pair = make(**options)
    asked = pair.client.done(sockfd=1, status=0)
    datagram = encode_message(
        ID, struct.pack("=BBH", DONE, 1, 0) + u32(4, 0), flags=5, sequence=asked.sequence
    )
    (answer,) = pair.kernel.receive_datagram(datagram)
    expected = DoneAnswered(sequence=asked.sequence, sockfd=1, error=errno.EINVAL, text=text)
    assert pair.client.receive_datagram_untrusted(answer) == [expected]


def test_a_missing_attribute_is_named(pair: Pair) -> None:
    asked = pair.client.done(sockfd=1, status=0)
    datagram = encode_message(ID, struct.pack("=BBH", DONE, 1, 0), flags=5, sequence=asked.sequence)
    (answer,) = pair.kernel.receive_datagram(datagram)
    (event,) = pair.client.receive_datagram_untrusted(answer)
    assert isinstance(event, DoneAnswered)
    assert event.text == "attribute 2 is missing"


# Faults.


def test_a_dropped_ready_leaves_the_request_pending(pair: Pair) -> None:
    pair.kernel.inject(DropReady())
    assert pair.kernel.post(MTLS) == b""
    assert pair.accepted() == 10
    assert pair.kernel.post(PendingRequest())


def test_a_refused_accept_leaves_the_request_pending(pair: Pair) -> None:
    pair.kernel.inject(RefuseCommand(command=Command.ACCEPT, error=errno.ENOMEM, text="no room"))
    pair.kernel.post(MTLS)
    event = pair.accept()
    assert isinstance(event, KernelError)
    assert (event.error, event.text) == (errno.ENOMEM, "no room")
    assert pair.accepted() == 10


def test_a_refused_done_completes_nothing(pair: Pair) -> None:
    pair.kernel.inject(RefuseCommand(command=Command.DONE, error=errno.ENOMEM))
    pair.kernel.post(MTLS)
    sockfd = pair.accepted()
    assert pair.done(sockfd).error == errno.ENOMEM
    assert not pair.kernel.completions


def test_a_lost_answer_is_that_of_a_done_that_was_carried_out(pair: Pair) -> None:
    pair.kernel.inject(LoseDoneAnswer())
    pair.kernel.post(MTLS)
    sockfd = pair.accepted()
    assert pair.say(pair.client.done(sockfd=sockfd, status=0)) == []
    assert len(pair.kernel.completions) == 1
    assert isinstance(pair.client.answers_lost()[0], DoneAnswered)
    assert pair.done(sockfd).error == 0


def test_an_answer_can_be_changed(pair: Pair) -> None:
    pair.kernel.inject(ChangeAnswer(change=lambda answer: answer[:-1]))
    pair.kernel.post(MTLS)
    assert isinstance(pair.accept(), MalformedMessage)
    assert pair.client.outstanding == 1


@given(st.lists(st.sampled_from(["post", "accept", "done", "cancel", "close"]), max_size=40))
def test_every_request_ends_once_at_most(steps: list[str]) -> None:
    pair = make(pending_limit=3)
    posted: list[PendingRequest] = []
    open_descriptors: list[int] = []
    for step in steps:
        if step == "post" and len(pair.kernel.pending) < 3:
            posted.append(PendingRequest())
            pair.kernel.post(posted[-1])
        elif step == "accept":
            event = pair.accept()
            if isinstance(event, Accepted):
                open_descriptors.append(event.reply.sockfd or -1)
        elif step == "done" and open_descriptors:
            assert pair.done(open_descriptors[-1]).error == 0
        elif step == "cancel" and posted:
            pair.kernel.cancel(posted[0])
        elif step == "close" and open_descriptors:
            pair.kernel.close(open_descriptors.pop())
    ended = [completion.request for completion in pair.kernel.completions]
    assert len(ended) == len(set(map(id, ended)))
    assert pair.client.outstanding == 0


def test_two_requests_are_never_equal() -> None:
    assert PendingRequest() != PendingRequest()
