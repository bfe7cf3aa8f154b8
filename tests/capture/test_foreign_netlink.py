"""Requests put together from what agents and kernel said."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.foreign_netlink import (
    MAX_FINDINGS,
    NetlinkRequest,
    NetlinkTraffic,
    examine_netlink,
)
from ktls_agent.sansio.capture.foreign_records import NetlinkDatagram
from ktls_agent.sansio.netlink import messages
from ktls_agent.sansio.netlink.events import AcceptReply, FamilyResolved
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import ClientAnon, InvalidRequest, ServerX509

FAMILY = 28
LIBNL = (1 << 22) + 955, (2 << 22) + 955
"""The port ids of two sockets of process 955."""

CLIENT = AcceptReply(
    sockfd=4, message_type=MessageType.CLIENTHELLO, auth_mode=Auth.UNAUTH, peername="server.test"
)
SERVER = AcceptReply(sockfd=4, message_type=MessageType.SERVERHELLO, auth_mode=Auth.X509)


def from_port(port_id: int, datagram: bytes) -> bytes:
    """Put a port id into a message."""
    return datagram[:12] + struct.pack("=I", port_id) + datagram[16:]


def resolved(family_id: int = FAMILY) -> list[bytes]:
    return [
        messages.encode_get_family(sequence=1),
        messages.encode_new_family(
            FamilyResolved(family_id=family_id, version=1, groups={"tlshd": 7}), sequence=1
        ),
    ]


def ready() -> bytes:
    return messages.encode_ready(family_id=FAMILY)


def accept(port_id: int = LIBNL[0], *, sequence: int = 2) -> bytes:
    return from_port(port_id, messages.encode_accept(family_id=FAMILY, sequence=sequence))


def reply(
    what: AcceptReply = CLIENT, port_id: int = LIBNL[0], *, sequence: int = 2, family: int = FAMILY
) -> bytes:
    return from_port(port_id, messages.encode_accept_reply(what, family_id=family, sequence=sequence))


def done(
    port_id: int = LIBNL[1],
    *,
    status: int | None = 0,
    sockfd: int | None = 4,
    sequence: int = 3,
    remote_auth: tuple[int, ...] = (),
) -> bytes:
    made = messages.encode_done(
        family_id=FAMILY, sequence=sequence, status=status, sockfd=sockfd, remote_auth=remote_auth
    )
    return from_port(port_id, made)


def error(request: bytes, number: int, *, port_id: int | None = None) -> bytes:
    answer = messages.encode_error(request=request, error=number)
    return from_port(struct.unpack_from("=I", request, 12)[0] if port_id is None else port_id, answer)


def examine(*datagrams: bytes) -> NetlinkTraffic:
    """Examine datagrams, a second apart."""
    return examine_netlink(NetlinkDatagram(at=float(at), data=data) for at, data in enumerate(datagrams))


def test_a_request_of_tlshd_which_says_done_on_another_socket() -> None:
    traffic = examine(*resolved(), ready(), accept(), reply(), done(status=13, remote_auth=(7, 8)))
    assert traffic == NetlinkTraffic(
        family_id=FAMILY,
        requests=(
            NetlinkRequest(
                process=955,
                request=ClientAnon(sockfd=4, peername="server.test"),
                ready=2.0,
                accepted=4.0,
                done=5.0,
                status=13,
                remote_auth=(7, 8),
            ),
        ),
        notifications=1,
    )
    assert traffic.requests[0].is_client is True


def test_a_request_of_ktls_agent_which_leaves_its_port_id_out() -> None:
    said = done(0)
    traffic = examine(
        *resolved(), ready(), accept(0), reply(SERVER, 4711), said, error(said, 0, port_id=4711)
    )
    (request,) = traffic.requests
    assert (request.process, request.status, request.answer) == (0, 0, 0)
    assert request.request == ServerX509(sockfd=4)
    assert request.is_client is False
    assert (traffic.unchecked, traffic.findings) == ((), ())


def test_the_kernels_answer_to_done() -> None:
    said = done()
    assert examine(*resolved(), accept(), reply(), said, error(said, 16)).requests[0].answer == 16


def test_processes_may_have_the_same_descriptor() -> None:
    other = (5 << 22) + 956
    traffic = examine(
        *resolved(),
        accept(),
        accept(other),
        reply(),
        reply(SERVER, other),
        done(other, status=5),
        done(status=0),
    )
    assert [(one.process, one.status) for one in traffic.requests] == [(955, 0), (956, 5)]
    assert traffic.findings == ()


def test_one_descriptor_after_the_other() -> None:
    traffic = examine(
        *resolved(), accept(), reply(), done(status=1), accept(sequence=5), reply(sequence=5), done(status=2)
    )
    assert [one.status for one in traffic.requests] == [1, 2]


def test_nothing_pending() -> None:
    asked = accept()
    traffic = examine(*resolved(), ready(), asked, error(asked, 11))
    assert (traffic.nothing_pending, traffic.requests, traffic.findings) == (1, (), ())


def test_an_accept_that_fails_is_wrong() -> None:
    asked = accept()
    assert examine(*resolved(), asked, error(asked, 1)).findings == (
        "The kernel answered an ACCEPT of process 955 with EPERM.",
    )


def test_a_request_without_done_is_told() -> None:
    traffic = examine(*resolved(), accept(), reply())
    assert traffic.requests[0].done is None
    assert traffic.unchecked == ("How the request with descriptor 4 of process 955 ended: there is no DONE.",)


def test_a_descriptor_that_comes_again_without_done_is_wrong() -> None:
    traffic = examine(*resolved(), accept(), reply(), accept(), reply())
    assert traffic.findings == ("Process 955 got descriptor 4 again, without a DONE for it.",)
    assert len(traffic.requests) == 2


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (done(), "A DONE of process 955 for descriptor 4: its ACCEPT is not in the capture."),
        (done(sockfd=None), "A DONE of process 955 for descriptor None: its ACCEPT is not in the capture."),
        (reply(), "An ACCEPT reply: its ACCEPT is not in the capture."),
        (
            messages.encode_message(FAMILY, b"\x63\x01\0\0"),
            "A message of the family is unknown here (command 99).",
        ),
        (messages.encode_message(FAMILY, b""), "A message of the family is unknown here (command 0)."),
        (
            b"short",
            "A datagram is not netlink, or was cut off by the capture: 5 bytes at 0 are too few for a netlink header.",
        ),
    ],
)
def test_what_lacks_its_other_half_is_told(said: bytes, sentence: str) -> None:
    traffic = examine(*resolved(), said)
    assert traffic.unchecked[0] == sentence
    assert traffic.findings == ()


def test_the_probe_of_tlshd_is_nothing() -> None:
    said = done(sockfd=-1)
    traffic = examine(*resolved(), said, error(said, 22))
    assert (traffic.requests, traffic.unchecked, traffic.findings) == ((), (), ())


@pytest.mark.parametrize(
    ("datagrams", "sentence"),
    [
        ([from_port(1, messages.encode_message(FAMILY, b"\x03\x01\0\0\x08\0\x02\0", flags=1))], "A DONE is malformed: attribute length 8 at 0 is wrong: 4 bytes remain."),
        ([accept(), reply(AcceptReply(message_type=1, auth_mode=1))], "The kernel's ACCEPT reply carries no descriptor."),
        ([accept(), reply(AcceptReply(sockfd=4, auth_mode=1))], "The request has no MESSAGE_TYPE."),
        ([accept(), from_port(LIBNL[0], messages.encode_message(2, b"", sequence=2))], "The kernel's answer is malformed: 0 bytes are too few for an NLMSG_ERROR."),
    ],
)  # fmt: skip
def test_what_is_malformed_is_wrong(datagrams: Iterable[bytes], sentence: str) -> None:
    assert examine(*resolved(), *datagrams).findings == (sentence,)


def test_an_invalid_request_is_a_request() -> None:
    (request,) = examine(*resolved(), accept(), reply(AcceptReply(sockfd=4)), done(status=22)).requests
    assert isinstance(request.request, InvalidRequest)
    assert (request.is_client, request.status) == (None, 22)


# Whose messages they are


def test_other_families_are_passed_over() -> None:
    other = messages.encode_ready(family_id=30)
    said = messages.encode_message(30, b"\x03\x01\0\0", flags=1)
    traffic = examine(other, *resolved(), said, error(said, 22), messages.encode_message(3, bytes(4)))
    assert traffic == NetlinkTraffic(family_id=FAMILY)


def test_answers_about_other_families_are_passed_over() -> None:
    other = resolved()[1].replace(b"handshake", b"nlctrl\0\0\0")
    assert examine(other, messages.encode_message(16, b"\1\1"), *resolved(29)).family_id == 29


def test_without_the_controllers_answer_the_family_is_guessed() -> None:
    nfsd = messages.encode_message(30, b"\x02\x01\0\0" + messages.encode_attribute(1, bytes(4)))
    traffic = examine(ready(), accept(), nfsd, reply(), done())
    assert (traffic.family_id, traffic.guessed, len(traffic.requests)) == (FAMILY, True, 1)
    assert traffic.notifications == 1


@pytest.mark.parametrize(
    "datagrams", [[], [ready(), accept()], [reply(AcceptReply(sockfd=4))], [reply(family=16)]]
)
def test_what_can_not_be_guessed(datagrams: list[bytes]) -> None:
    assert examine(*datagrams) == NetlinkTraffic(family_id=None)


# Any bytes

GOOD = (*resolved(), ready(), accept(), reply(), done(), error(done(), 0))


def test_sentences_are_bounded() -> None:
    traffic = examine(*resolved(), *[b"short"] * 200, *[accept(), reply(AcceptReply(sockfd=4))] * 200)
    assert (len(traffic.unchecked), len(traffic.findings)) == (MAX_FINDINGS, MAX_FINDINGS)


@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(GOOD)), max_size=20))
def test_any_datagrams_are_told_about(datagrams: list[bytes]) -> None:
    traffic = examine(*datagrams)
    assert len(traffic.requests) <= datagrams.count(reply()) + sum(len(one) > 40 for one in datagrams)


@given(st.data())
def test_mutated_datagrams_are_told_about(data: st.DataObject) -> None:
    datagrams = list(GOOD)
    index = data.draw(st.integers(0, len(datagrams) - 1))
    where = data.draw(st.integers(0, len(datagrams[index]) - 1))
    changed = bytearray(datagrams[index])
    changed[where] = data.draw(st.integers(0, 255))
    datagrams[index] = bytes(changed)
    assert len(examine(*datagrams).requests) <= 1
