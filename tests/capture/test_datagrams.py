"""Recorded netlink datagrams, taken apart for people."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.datagrams import dissect_datagram_untrusted, serial_text
from ktls_agent.sansio.capture.messages import Dissection, detail
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials
from ktls_agent.sansio.netlink.messages import (
    encode_accept,
    encode_accept_reply,
    encode_attribute,
    encode_done,
    encode_error,
    encode_message,
    encode_ready,
)
from ktls_agent.sansio.netlink.spec import Auth, MessageType

FAMILY = 0x20
DONE = encode_done(family_id=FAMILY, sequence=4, status=0, sockfd=13, remote_auth=(0x1000, 0x1001))


def one(data: bytes, *, outgoing: bool = False) -> Dissection:
    (found,) = dissect_datagram_untrusted(data, outgoing=outgoing)
    return found


def reply(**attributes: object) -> Dissection:
    made = AcceptReply(**attributes)  # type: ignore[arg-type]
    return one(encode_accept_reply(made, family_id=FAMILY, sequence=3))


def test_ready_and_accept() -> None:
    handler_class = (detail("HANDLER_CLASS", ["TLSHD"]),)
    assert one(encode_ready(family_id=FAMILY)) == Dissection(name="READY", details=handler_class)
    asked = encode_accept(family_id=FAMILY, sequence=3)
    assert one(asked, outgoing=True) == Dissection(name="ACCEPT", details=handler_class)
    assert one(encode_ready(family_id=FAMILY, handler_class=7)).details == (detail("HANDLER_CLASS", ["7"]),)


def test_a_request_with_everything() -> None:
    found = reply(
        sockfd=13,
        message_type=MessageType.CLIENTHELLO,
        auth_mode=Auth.X509,
        peername="nfs\x1b.example",
        timeout_ms=9500,
        keyring=0x300,
        peer_identities=(0x2000, 0x2001),
        certificates=(CertificateSerials(certificate=0x10, private_key=-1), CertificateSerials(certificate=None, private_key=2)),
    )  # fmt: skip
    assert found == Dissection(
        name="request (CLIENTHELLO, X509)",
        details=(
            detail("PEERNAME", ["nfs\\x1b.example"]),
            detail("TIMEOUT", ["9500 ms"]),
            detail("KEYRING", ["keyring 0x300"]),
            detail("PEER_IDENTITY", ["key 0x2000", "key 0x2001"]),
            detail(
                "CERTIFICATE",
                ["certificate 0x10 with key 0xffffffff", "certificate 0x0 with key 0x2"],
            ),
            detail("SOCKFD", ["fd 13"]),
        ),
    )


def test_a_request_with_nothing_known() -> None:
    assert reply(sockfd=1, auth_mode=77).name == "request (none, 77)"


def test_a_peername_that_is_not_text_is_escaped() -> None:
    assert reply(sockfd=1, peername="\udcff").details[0] == detail("PEERNAME", ["\\udcff"])


def test_a_request_with_a_defect_and_an_unknown_attribute() -> None:
    chain = encode_attribute(1, b"\1\0\0\0") + encode_attribute(60, b"new") + encode_attribute(5, b"x")
    found = one(encode_message(FAMILY, b"\2\1\0\0" + chain))
    assert found.bad
    assert found.defect is not None
    assert "AUTH_MODE" in found.defect
    assert found.details == (detail("SOCKFD", ["fd 1"]), detail("unknown attributes", ["type 60"]))


@pytest.mark.parametrize(
    ("status", "name", "bad"), [(0, "DONE ok", False), (errno.EACCES, "DONE EACCES", True), (None, "DONE without a status", True)]
)  # fmt: skip
def test_done(status: int | None, name: str, bad: bool) -> None:
    sent = encode_done(family_id=FAMILY, sequence=4, status=status, sockfd=13)
    assert one(sent, outgoing=True) == Dissection(name=name, details=(detail("SOCKFD", ["fd 13"]),), bad=bad)


def test_done_names_the_keys_of_the_peer() -> None:
    assert one(DONE, outgoing=True).details[0] == detail("REMOTE_AUTH", ["key 0x1000", "key 0x1001"])


def test_answers() -> None:
    assert one(encode_error(request=DONE, error=0)) == Dissection(name="acknowledged")
    refused = one(encode_error(request=DONE, error=errno.EBADF, text="no such\x07 thing"))
    said = (detail("the kernel says", ["no such? thing"]),)
    assert refused == Dissection(name="refused: EBADF", details=said, bad=True)


def test_a_command_in_the_wrong_direction_is_just_named() -> None:
    assert one(DONE, outgoing=False) == Dissection(name="netlink command 3")


def test_messages_before_a_defect_are_kept() -> None:
    found = dissect_datagram_untrusted(encode_ready(family_id=FAMILY) + b"\1", outgoing=False)
    assert [item.name for item in found] == ["READY", "netlink message"]
    assert found[1].bad
    assert found[1].defect == "1 bytes at 28 are too few for a netlink header"


def test_serials_are_shown_as_the_kernel_does() -> None:
    assert serial_text(0x1000) == "0x1000"
    assert serial_text(-1) == "0xffffffff"


@given(st.binary(max_size=200), st.booleans(), st.sampled_from([2, FAMILY]), st.integers(0, 4))
def test_no_bytes_make_it_raise(data: bytes, outgoing: bool, kind: int, command: int) -> None:
    datagrams = (data, encode_message(kind, data), encode_message(FAMILY, bytes([command, 1, 0, 0]) + data))
    for datagram in datagrams:
        for found in dissect_datagram_untrusted(datagram, outgoing=outgoing):
            texts = [
                found.name,
                found.defect or "",
                *(text for item in found.details for text in item.values),
            ]
            assert all(text.isprintable() for text in texts)
