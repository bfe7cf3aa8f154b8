"""`GenlClient`: every request gets exactly one answering event, and nothing that the kernel says raises."""

import errno
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.netlink import messages
from ktls_agent.sansio.netlink.client import MAX_OUTSTANDING, GenlClient, NetlinkUsageError
from ktls_agent.sansio.netlink.events import (
    Accepted,
    AcceptReply,
    DoneAnswered,
    FamilyResolved,
    KernelError,
    MalformedMessage,
    NetlinkEvent,
    NothingPending,
    NotificationsLost,
    Ready,
)
from ktls_agent.sansio.netlink.messages import encode_attribute, encode_error, encode_message
from ktls_agent.sansio.netlink.spec import Command, CtrlCommand, NlmsgType

FAMILY = FamilyResolved(family_id=0x1F, version=1, groups={"none": 4, "tlshd": 5})
REPLY = AcceptReply(sockfd=7, message_type=1, auth_mode=1, peername="server.example")
READY = messages.encode_ready(family_id=0x1F)


@pytest.fixture
def client() -> GenlClient:
    return resolved()


def resolved() -> GenlClient:
    client = GenlClient()
    asked = client.resolve_family()
    client.receive_datagram_untrusted(messages.encode_new_family(FAMILY, sequence=asked.sequence))
    return client


def accept_reply(sequence: int) -> bytes:
    return messages.encode_accept_reply(REPLY, family_id=0x1F, sequence=sequence)


def genl(command: int, chain: bytes = b"", *, message_type: int = 0x1F, sequence: int = 0) -> bytes:
    return encode_message(message_type, struct.pack("=BBH", command, 1, 0) + chain, sequence=sequence)


def answer_of(events: list[NetlinkEvent]) -> NetlinkEvent:
    (event,) = events
    return event


# Resolving.


def test_resolves_the_family() -> None:
    client = GenlClient()
    asked = client.resolve_family()
    assert client.receive_datagram_untrusted(messages.encode_new_family(FAMILY, sequence=asked.sequence)) == [
        FAMILY
    ]
    assert client.outstanding == 0


def test_a_kernel_without_the_family_is_an_error() -> None:
    client = GenlClient()
    asked = client.resolve_family()
    events = client.receive_datagram_untrusted(encode_error(request=asked.datagram, error=errno.ENOENT))
    expected = KernelError(sequence=asked.sequence, command="resolve", error=errno.ENOENT, text="")
    assert events == [expected]


def test_a_family_without_the_group_is_a_malformed_answer() -> None:
    client = GenlClient()
    asked = client.resolve_family()
    family = replace(FAMILY, groups={"none": 4})
    event = answer_of(
        client.receive_datagram_untrusted(messages.encode_new_family(family, sequence=asked.sequence))
    )
    assert isinstance(event, KernelError)
    assert (event.command, event.error) == ("resolve", errno.EBADMSG)
    assert event.text == "the answer is malformed: the family has no multicast group tlshd"
    with pytest.raises(NetlinkUsageError, match="not resolved"):
        client.accept()


def test_nothing_is_asked_of_an_unresolved_family() -> None:
    client = GenlClient()
    with pytest.raises(NetlinkUsageError, match="not resolved"):
        client.accept()
    with pytest.raises(NetlinkUsageError, match="not resolved"):
        client.done(sockfd=3, status=0)
    assert client.outstanding == 0


def test_a_family_can_be_resolved_again(client: GenlClient) -> None:
    asked = client.resolve_family()
    family = replace(FAMILY, family_id=0x2F)
    client.receive_datagram_untrusted(messages.encode_new_family(family, sequence=asked.sequence))
    assert struct.unpack_from("=IH", client.accept().datagram)[1] == 0x2F


# ACCEPT.


def test_an_accept_reply_is_accepted(client: GenlClient) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(accept_reply(asked.sequence))
    assert events == [Accepted(sequence=asked.sequence, reply=REPLY)]


def test_eagain_means_that_nothing_is_pending(client: GenlClient) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(encode_error(request=asked.datagram, error=errno.EAGAIN))
    assert events == [NothingPending(sequence=asked.sequence)]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOMEM, errno.EMFILE, 0])
def test_any_other_error_is_told(client: GenlClient, error: int) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(encode_error(request=asked.datagram, error=error, text="so"))
    assert events == [KernelError(sequence=asked.sequence, command="accept", error=error, text="so")]


def test_a_malformed_attribute_does_not_cost_the_descriptor(client: GenlClient) -> None:
    asked = client.accept()
    chain = encode_attribute(3, b"\1") + encode_attribute(1, struct.pack("=i", 7))
    event = answer_of(client.receive_datagram_untrusted(genl(Command.ACCEPT, chain, sequence=asked.sequence)))
    assert isinstance(event, Accepted)
    assert event.reply == AcceptReply(sockfd=7, defect="MESSAGE_TYPE has 1 bytes instead of 4")


def test_a_malformed_message_behind_it_does_not_cost_the_descriptor(client: GenlClient) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(accept_reply(asked.sequence) + b"\xff" * 20)
    assert events[0] == Accepted(sequence=asked.sequence, reply=REPLY)
    assert isinstance(events[1], MalformedMessage)
    assert events[1].reason.startswith("netlink: message length 4294967295 at 64 is wrong")


def test_a_malformed_message_before_it_does_not_cost_the_descriptor(client: GenlClient) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(genl(Command.READY) + accept_reply(asked.sequence))
    assert isinstance(events[0], MalformedMessage)
    assert events[1:] == [Accepted(sequence=asked.sequence, reply=REPLY)]


def test_an_answer_without_a_generic_header_ends_the_wait(client: GenlClient) -> None:
    asked = client.accept()
    event = answer_of(client.receive_datagram_untrusted(encode_message(0x1F, b"", sequence=asked.sequence)))
    assert isinstance(event, KernelError)
    assert (event.sequence, event.error) == (asked.sequence, errno.EBADMSG)
    assert client.outstanding == 0


# DONE.


def test_done_is_answered(client: GenlClient) -> None:
    asked = client.done(sockfd=7, status=0, remote_auth=(5,))
    events = client.receive_datagram_untrusted(encode_error(request=asked.datagram, error=0))
    assert events == [DoneAnswered(sequence=asked.sequence, sockfd=7, error=0, text="")]


def test_a_refused_done_says_why(client: GenlClient) -> None:
    asked = client.done(sockfd=7, status=0)
    datagram = encode_error(request=asked.datagram, error=errno.EINVAL, text="no", offset=20)
    events = client.receive_datagram_untrusted(datagram)
    text = "no, at byte 20 of the request"
    assert events == [DoneAnswered(sequence=asked.sequence, sockfd=7, error=errno.EINVAL, text=text)]


def test_a_malformed_answer_to_done_ends_the_wait(client: GenlClient) -> None:
    asked = client.done(sockfd=7, status=0)
    event = answer_of(
        client.receive_datagram_untrusted(encode_message(NlmsgType.ERROR, b"", sequence=asked.sequence))
    )
    assert isinstance(event, DoneAnswered)
    assert (event.sockfd, event.error) == (7, errno.EBADMSG)


@pytest.mark.parametrize(
    ("sockfd", "status", "remote_auth", "what"),
    [
        (7, -1, (), "the status is -1"),
        (7, 4096, (), "the status is 4096"),
        (-1, 0, (), "the descriptor is -1"),
        (2**31, 0, (), "the descriptor is 2147483648"),
        (7, 0, (-1,), "a peer identity is -1"),
        (7, 0, (1, 2**32), "a peer identity is 4294967296"),
    ],
)
def test_done_refuses_numbers_that_do_not_fit(
    client: GenlClient, sockfd: int, status: int, remote_auth: tuple[int, ...], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        client.done(sockfd=sockfd, status=status, remote_auth=remote_auth)
    assert client.outstanding == 0


@pytest.mark.parametrize("status", [0, 1, 4095])
def test_done_takes_every_errno(client: GenlClient, status: int) -> None:
    assert client.done(sockfd=0, status=status).sequence > 0


# Notifications.


def test_ready_is_told(client: GenlClient) -> None:
    assert client.receive_datagram_untrusted(READY + READY) == [Ready(handler_class=1)] * 2


def test_ready_does_not_answer_a_request(client: GenlClient) -> None:
    client.accept()
    client.receive_datagram_untrusted(READY)
    assert client.outstanding == 1


def test_ready_of_an_unresolved_family_is_ignored() -> None:
    client = GenlClient()
    assert client.receive_datagram_untrusted(READY) == []
    assert client.unmatched == 1


def test_an_overrun_means_lost_notifications(client: GenlClient) -> None:
    assert client.receive_datagram_untrusted(encode_message(NlmsgType.OVERRUN, b"")) == [NotificationsLost()]
    assert client.notifications_lost() == [NotificationsLost()]


def test_a_noop_is_nothing(client: GenlClient) -> None:
    assert client.receive_datagram_untrusted(encode_message(NlmsgType.NOOP, b"")) == []
    assert client.unmatched == 0


# What answers nothing.


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(accept_reply(99), id="an ACCEPT with a foreign sequence number"),
        pytest.param(
            encode_error(request=encode_message(1, b"", sequence=99), error=1), id="a foreign error"
        ),
        pytest.param(messages.encode_new_family(FAMILY, sequence=99), id="a foreign family"),
        pytest.param(messages.encode_new_family(FAMILY, sequence=2), id="a family instead of a request"),
        pytest.param(genl(Command.DONE, sequence=2), id="a DONE from the kernel"),
        pytest.param(genl(77, sequence=2), id="an unknown command"),
        pytest.param(
            genl(CtrlCommand.GETFAMILY, message_type=16, sequence=2), id="GETFAMILY from the kernel"
        ),
        pytest.param(encode_message(0x55, b"", sequence=2), id="another family"),
        pytest.param(encode_message(NlmsgType.DONE, bytes(4), sequence=2), id="the end of a dump"),
    ],
)
def test_what_answers_nothing_is_counted(client: GenlClient, datagram: bytes) -> None:
    asked = client.accept()
    assert asked.sequence == 2
    assert client.receive_datagram_untrusted(datagram) == []
    assert (client.unmatched, client.outstanding) == (1, 1)
    events = client.receive_datagram_untrusted(accept_reply(asked.sequence))
    assert events == [Accepted(sequence=asked.sequence, reply=REPLY)]


def test_an_accept_reply_does_not_answer_a_done(client: GenlClient) -> None:
    asked = client.done(sockfd=3, status=0)
    assert client.receive_datagram_untrusted(accept_reply(asked.sequence)) == []
    assert (client.unmatched, client.outstanding) == (1, 1)


def test_a_second_answer_is_counted(client: GenlClient) -> None:
    asked = client.accept()
    events = client.receive_datagram_untrusted(accept_reply(asked.sequence) * 2)
    assert events == [Accepted(sequence=asked.sequence, reply=REPLY)]
    assert client.unmatched == 1


# Bookkeeping.


def test_answers_may_come_in_any_order(client: GenlClient) -> None:
    first, second = client.done(sockfd=1, status=0), client.done(sockfd=2, status=5)
    datagram = encode_error(request=second.datagram, error=0) + encode_error(request=first.datagram, error=0)
    events = client.receive_datagram_untrusted(datagram)
    assert [event.sockfd for event in events if isinstance(event, DoneAnswered)] == [2, 1]


def test_outstanding_requests_are_bounded(client: GenlClient) -> None:
    asked = [client.accept() for _ in range(MAX_OUTSTANDING)]
    with pytest.raises(NetlinkUsageError, match="64 netlink requests"):
        client.accept()
    client.abandon(asked[0].sequence)
    client.abandon(asked[0].sequence)
    assert client.accept().sequence not in {request.sequence for request in asked}


def test_lost_answers_end_every_wait(client: GenlClient) -> None:
    requests = [client.resolve_family(), client.accept(), client.done(sockfd=7, status=0)]
    events = client.answers_lost()
    assert [type(event) for event in events] == [KernelError, KernelError, DoneAnswered]
    assert [
        (event.sequence, event.error) for event in events if isinstance(event, (KernelError, DoneAnswered))
    ] == [(request.sequence, errno.ENOBUFS) for request in requests]
    assert (client.outstanding, client.answers_lost()) == (0, [])


def test_sequence_numbers_wrap_past_the_notifications_0(client: GenlClient) -> None:
    client._last_sequence = 2**32 - 2
    assert [client.accept().sequence for _ in range(3)] == [2**32 - 1, 1, 2]


# Whatever comes.

SCRAPS = st.sampled_from(
    [
        accept_reply(2),
        accept_reply(3),
        READY,
        genl(Command.READY),
        encode_message(1, b""),
        encode_message(2, b""),
    ]
) | st.binary(max_size=40)


@given(st.lists(st.lists(SCRAPS, max_size=4).map(b"".join), max_size=6))
def test_nothing_raises_and_nothing_is_answered_twice(datagrams: list[bytes]) -> None:
    client = resolved()
    asked = [client.accept().sequence, client.done(sockfd=3, status=0).sequence]
    events = [event for datagram in datagrams for event in client.receive_datagram_untrusted(datagram)]
    events += client.answers_lost()
    answers = (Accepted, NothingPending, DoneAnswered, KernelError)
    assert sorted(event.sequence for event in events if isinstance(event, answers)) == asked


@given(place=st.integers(0, 63), value=st.integers(0, 255))
def test_a_changed_byte_in_an_accept_reply_neither_raises_nor_loses_the_answer(
    place: int, value: int
) -> None:
    client = resolved()
    good = accept_reply(client.accept().sequence)
    bad = good[:place] + bytes([value]) + good[place + 1 :]
    events = client.receive_datagram_untrusted(bad) + client.receive_datagram_untrusted(good)
    assert len([event for event in events if isinstance(event, (Accepted, KernelError))]) == 1
    assert client.outstanding == 0
