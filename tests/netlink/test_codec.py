"""The strict decoder: round trips with the encoder, refusals by name, mutations, and pyroute2 as a second opinion."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import ctrlmsg

from ktls_agent.sansio.netlink import codec, messages, spec
from ktls_agent.sansio.netlink.codec import DoneRequest, Message, NetlinkDecodeError
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials, FamilyResolved
from ktls_agent.sansio.netlink.messages import encode_attribute, encode_message
from ktls_agent.sansio.netlink.spec import AcceptAttribute, NlmsgFlag, NlmsgType

from . import strategies

FAMILY = FamilyResolved(family_id=0x1F, version=1, groups={"none": 4, "tlshd": 5})
FULL_REPLY = AcceptReply(
    sockfd=7,
    message_type=1,
    timeout_ms=10000,
    auth_mode=3,
    peer_identities=(1, 2),
    certificates=(CertificateSerials(certificate=11, private_key=-12),),
    peername="server.example",
    keyring=99,
)
REQUEST = messages.encode_done(family_id=0x1F, sequence=9, status=0, sockfd=7)


def u32(number: int, value: int) -> bytes:
    return encode_attribute(number, struct.pack("=I", value))


def only_message(datagram: bytes) -> Message:
    (message,) = codec.split_messages_untrusted(datagram)
    return message


def chain_of(datagram: bytes) -> bytes:
    return codec.split_genl_untrusted(only_message(datagram).payload)[1]


# Golden bytes: netlink is in the machine's own byte order.


def test_encodes_getfamily_as_the_kernel_reads_it() -> None:
    body = struct.pack("=BBHHH", 3, 1, 0, 14, 2) + b"handshake\0\0\0"
    assert messages.encode_get_family(sequence=3) == struct.pack("=IHHII", 36, 16, 1, 3, 0) + body


def test_encodes_accept_without_asking_for_an_acknowledgement() -> None:
    expected = struct.pack("=IHHIIBBHHHI", 28, 0x1F, 1, 4, 0, 2, 1, 0, 8, 2, 1)
    assert messages.encode_accept(family_id=0x1F, sequence=4) == expected


def test_encodes_done_with_an_acknowledgement_asked_for() -> None:
    expected = (
        struct.pack("=IHHIIBBH", 44, 0x1F, 5, 5, 0, 3, 1, 0) + u32(1, 13) + u32(2, 9) + u32(3, 0xFFFFFFFF)
    )
    done = messages.encode_done(family_id=0x1F, sequence=5, status=13, sockfd=9, remote_auth=[0xFFFFFFFF])
    assert done == expected


def test_a_certificate_is_marked_as_nested() -> None:
    reply = AcceptReply(certificates=(CertificateSerials(certificate=1, private_key=2),))
    chain = chain_of(messages.encode_accept_reply(reply, family_id=0x1F, sequence=1))
    assert struct.unpack_from("=HH", chain) == (20, 0x8007)


# Round trips.


@given(reply=strategies.accept_replies, sequence=strategies.sequences, family_id=strategies.family_ids)
def test_an_accept_reply_comes_back(reply: AcceptReply, sequence: int, family_id: int) -> None:
    message = only_message(messages.encode_accept_reply(reply, family_id=family_id, sequence=sequence))
    assert (message.message_type, message.sequence) == (family_id, sequence)
    command, chain = codec.split_genl_untrusted(message.payload)
    assert command == spec.Command.ACCEPT
    assert codec.decode_accept_reply_untrusted(chain) == reply


@given(
    status=strategies.statuses | st.none(),
    sockfd=strategies.s32 | st.none(),
    remote_auth=st.lists(strategies.u32, max_size=5).map(tuple),
)
def test_a_done_comes_back(status: int | None, sockfd: int | None, remote_auth: tuple[int, ...]) -> None:
    datagram = messages.encode_done(
        family_id=0x1F, sequence=1, status=status, sockfd=sockfd, remote_auth=remote_auth
    )
    expected = DoneRequest(status=status, sockfd=sockfd, remote_auth=remote_auth)
    assert codec.decode_done_untrusted(chain_of(datagram)) == expected


@given(
    family_id=strategies.family_ids,
    groups=st.dictionaries(st.text("abcdefghij-_", min_size=1, max_size=15), strategies.u32, max_size=5),
)
def test_a_family_comes_back(family_id: int, groups: dict[str, int]) -> None:
    family = FamilyResolved(family_id=family_id, version=1, groups=groups)
    assert codec.decode_family_untrusted(chain_of(messages.encode_new_family(family, sequence=1))) == family


@given(error=strategies.statuses, capped=st.booleans(), padding=st.binary(max_size=3))
def test_an_error_comes_back(error: int, capped: bool, padding: bytes) -> None:
    request = encode_message(0x1F, bytes(8) + padding, sequence=6)
    datagram = messages.encode_error(
        request=request, error=error, text="no such thing", offset=20, capped=capped
    )
    message = only_message(datagram)
    assert bool(message.flags & NlmsgFlag.CAPPED) is (capped or error == 0)
    decoded = codec.decode_error_untrusted(message)
    assert (decoded.error, decoded.text) == (error, "no such thing, at byte 20 of the request")


def test_ready_comes_back() -> None:
    datagram = messages.encode_ready(family_id=0x1F)
    assert only_message(datagram).sequence == 0
    assert codec.decode_handler_class_untrusted(chain_of(datagram)) == spec.HandlerClass.TLSHD


# A second opinion.


def as_pyroute2(decoded: Any) -> list[tuple[str, object]]:
    return [(slot[0], slot[1]) for slot in decoded["attrs"]]


@given(reply=strategies.accept_replies)
def test_pyroute2_decodes_an_accept_reply_alike(reply: AcceptReply) -> None:
    message = messages.AcceptMessage(messages.encode_accept_reply(reply, family_id=0x1F, sequence=1))
    message.decode()
    found = codec.decode_accept_reply_untrusted(chain_of(bytes(message.data)))
    second = as_pyroute2(message)
    first = dict(reversed(second))
    numbers = {"SOCKFD": found.sockfd, "MESSAGE_TYPE": found.message_type, "TIMEOUT": found.timeout_ms}
    numbers |= {"AUTH_MODE": found.auth_mode, "KEYRING": found.keyring}
    assert {name: first.get(name) for name in numbers} == numbers
    assert tuple(value for name, value in second if name == "PEER_IDENTITY") == found.peer_identities
    nests = [dict(as_pyroute2(value)) for name, value in second if name == "CERTIFICATE"]
    assert (
        tuple(
            CertificateSerials(certificate=nest.get("CERT"), private_key=nest.get("PRIVKEY"))  # type: ignore[arg-type]
            for nest in nests
        )
        == found.certificates
    )


def test_pyroute2_decodes_a_family_alike() -> None:
    message = ctrlmsg(messages.encode_new_family(FAMILY, sequence=1))
    message.decode()
    groups = message.get_attr("CTRL_ATTR_MCAST_GROUPS")
    assert message.get_attr("CTRL_ATTR_FAMILY_ID") == FAMILY.family_id
    assert {
        group.get_attr("CTRL_ATTR_MCAST_GRP_NAME"): group.get_attr("CTRL_ATTR_MCAST_GRP_ID")
        for group in groups
    } == FAMILY.groups


# Messages.


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        pytest.param(b"\0", "too few for a netlink header", id="one byte"),
        pytest.param(bytes(15), "too few for a netlink header", id="a header less one byte"),
        pytest.param(bytes(65536), "message length 0 at 0 is wrong", id="64 KiB of zeros"),
        pytest.param(bytes(65537), "longer than 65536", id="more than a datagram"),
        pytest.param(struct.pack("=IHHII", 15, 1, 0, 0, 0), "length 15", id="a length below the header"),
        pytest.param(struct.pack("=IHHII", 17, 1, 0, 0, 0), "length 17", id="a length past the end"),
        pytest.param(
            struct.pack("=IHHII", 2**32 - 1, 1, 0, 0, 0), "length 4294967295", id="the longest length"
        ),
        pytest.param(encode_message(1, b"") * 65, "more than 64 messages", id="too many messages"),
        pytest.param(encode_message(1, b"") + b"\0", "1 bytes at 16", id="a trailing byte"),
    ],
)
def test_refuses_a_datagram(datagram: bytes, reason: str) -> None:
    with pytest.raises(NetlinkDecodeError, match=reason):
        list(codec.split_messages_untrusted(datagram))


def test_yields_the_messages_before_a_malformed_one() -> None:
    split = codec.split_messages_untrusted(encode_message(1, b"", sequence=5) + b"xyz")
    assert next(split).sequence == 5
    with pytest.raises(NetlinkDecodeError):
        next(split)


def test_an_empty_datagram_holds_no_message() -> None:
    assert list(codec.split_messages_untrusted(b"")) == []


@given(st.lists(st.binary(max_size=40), max_size=10), st.booleans())
def test_splits_messages_of_any_length(payloads: list[bytes], padded_at_the_end: bool) -> None:
    datagram = b""
    for payload in payloads:
        datagram += bytes(-len(datagram) % 4) + encode_message(20, payload)
    datagram += bytes(-len(datagram) % 4) if padded_at_the_end else b""
    assert [message.payload for message in codec.split_messages_untrusted(datagram)] == payloads


def test_refuses_a_payload_below_the_generic_header() -> None:
    with pytest.raises(NetlinkDecodeError, match="3 bytes are too few"):
        codec.split_genl_untrusted(b"\2\1\0")


# Attributes.


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        pytest.param(b"\0\0\0", "3 bytes at 0", id="less than a header"),
        pytest.param(struct.pack("=HH", 0, 1), "attribute length 0", id="nla_len 0"),
        pytest.param(struct.pack("=HH", 3, 1), "attribute length 3", id="nla_len 3"),
        pytest.param(struct.pack("=HHI", 9, 1, 0), "attribute length 9", id="a length past the end"),
        pytest.param(struct.pack("=HHI", 0xFFFF, 1, 0), "attribute length 65535", id="the longest length"),
        pytest.param(bytes(65000), "attribute length 0", id="65000 zeros"),
        pytest.param(u32(1, 0) + b"\0", "1 bytes at 8", id="a trailing byte"),
        pytest.param(encode_attribute(99, b"") * 257, "more than 256 attributes", id="too many"),
        pytest.param(encode_attribute(1, b"\0\0\0"), "STATUS has 3 bytes instead of 4", id="u32 of 3 bytes"),
        pytest.param(encode_attribute(1, bytes(8)), "STATUS has 8 bytes instead of 4", id="u32 of 8 bytes"),
        pytest.param(encode_attribute(2, b""), "SOCKFD has 0 bytes instead of 4", id="empty s32"),
        pytest.param(u32(1, 0) + u32(1, 0), "STATUS is repeated", id="a scalar twice"),
    ],
)
def test_refuses_a_chain(chain: bytes, reason: str) -> None:
    with pytest.raises(NetlinkDecodeError, match=reason):
        codec.decode_done_untrusted(chain)


def test_keeps_unknown_attributes() -> None:
    done = codec.decode_done_untrusted(u32(1, 5) + encode_attribute(4, b"tag") + u32(3, 6))
    assert done == DoneRequest(status=5, remote_auth=(6,), unknown=((4, b"tag"),))


@pytest.mark.parametrize("flag", [0x8000, 0x4000, 0xC000])
def test_masks_the_flags_of_a_type(flag: int) -> None:
    assert codec.decode_done_untrusted(u32(1 | flag, 5)).status == 5


def test_does_not_open_what_it_does_not_know_however_deep_it_nests() -> None:
    nest = b""
    while len(nest) < 60000:
        nest = encode_attribute(0x8000 | 40, nest)
    done = codec.decode_done_untrusted(nest)
    assert [(number, len(payload)) for number, payload in done.unknown] == [(40, len(nest) - 4)]


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"host", "host"),
        (b"host\0", "host"),
        (b"", ""),
        (b"\0", ""),
        ("hôte".encode(), "hôte"),
        (b"h\xf4te\0", "h\udcf4te"),
    ],
)
def test_reads_a_string_with_or_without_its_nul(payload: bytes, name: str) -> None:
    chain = encode_attribute(AcceptAttribute.PEERNAME.number, payload)
    reply = codec.decode_accept_reply_untrusted(chain)
    assert (reply.peername, reply.defect) == (name, None)


def test_ready_needs_its_handler_class() -> None:
    with pytest.raises(NetlinkDecodeError, match="no HANDLER_CLASS"):
        codec.decode_handler_class_untrusted(u32(3, 1))


# ACCEPT's reply: the descriptor is never lost.

SOCKFD = u32(AcceptAttribute.SOCKFD.number, 7)


@pytest.mark.parametrize(
    ("chain", "defect"),
    [
        pytest.param(encode_attribute(3, b"\1") + SOCKFD, "MESSAGE_TYPE has 1 bytes instead of 4", id="size"),
        pytest.param(SOCKFD + b"\0\0\0\0", "attribute length 0 at 8 is wrong", id="nla_len 0 behind it"),
        pytest.param(SOCKFD + SOCKFD, "SOCKFD is repeated", id="repeated"),
        pytest.param(SOCKFD + u32(5, 1) + u32(5, 2), "AUTH_MODE is repeated", id="another one repeated"),
        pytest.param(
            encode_attribute(8, b"a\0b\0") + SOCKFD, "PEERNAME has a NUL inside", id="NUL in the name"
        ),
        pytest.param(
            encode_attribute(7, encode_attribute(1, b"")) + SOCKFD, "CERTIFICATE: CERT has 0 bytes", id="nest"
        ),
        pytest.param(
            encode_attribute(7, b"\0\0\0\0") + SOCKFD, "CERTIFICATE: attribute length 0", id="nested length"
        ),
        pytest.param(
            encode_attribute(3, b"") + encode_attribute(5, b"") + SOCKFD,
            "MESSAGE_TYPE has 0",
            id="the first of two",
        ),
    ],
)
def test_an_accept_reply_with_a_defect_keeps_its_descriptor(chain: bytes, defect: str) -> None:
    reply = codec.decode_accept_reply_untrusted(chain)
    assert reply.sockfd == 7
    assert reply.defect is not None
    assert reply.defect.startswith(defect)


def test_a_negative_descriptor_is_none() -> None:
    reply = codec.decode_accept_reply_untrusted(encode_attribute(1, struct.pack("=i", -1)))
    assert (reply.sockfd, reply.defect) == (None, "SOCKFD is -1, which is no descriptor")


def test_of_a_repeated_scalar_the_first_is_kept() -> None:
    assert codec.decode_accept_reply_untrusted(u32(5, 1) + u32(5, 2)).auth_mode == 1


# The controller's answer.


NAME = encode_attribute(2, b"handshake\0")
ID = encode_attribute(1, struct.pack("=H", 31))


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        pytest.param(ID, "the family None", id="no name"),
        pytest.param(encode_attribute(2, b"nlctrl\0") + ID, "the family 'nlctrl'", id="another name"),
        pytest.param(NAME, "the family id None", id="no id"),
        pytest.param(NAME + encode_attribute(1, struct.pack("=H", 3)), "the family id 3", id="a reserved id"),
        pytest.param(
            NAME + encode_attribute(1, struct.pack("=I", 31)), "FAMILY_ID has 4 bytes", id="a wide id"
        ),
        pytest.param(NAME + ID + encode_attribute(7, b"\0\0\0\0"), "attribute length 0", id="broken groups"),
        pytest.param(
            NAME + ID + encode_attribute(7, encode_attribute(1, u32(2, 5))),
            "lacks its name",
            id="a nameless group",
        ),
        pytest.param(
            NAME + ID + encode_attribute(7, encode_attribute(1, encode_attribute(1, b"tlshd\0"))),
            "lacks its name or its id",
            id="a group without an id",
        ),
    ],
)
def test_refuses_a_family(chain: bytes, reason: str) -> None:
    with pytest.raises(NetlinkDecodeError, match=reason):
        codec.decode_family_untrusted(chain)


# NLMSG_ERROR.


def error_message(payload: bytes, flags: int = 0) -> Message:
    return only_message(encode_message(NlmsgType.ERROR, payload, flags=flags))


HEADER = REQUEST[:16]
EAGAIN = struct.pack("=i", -11)


@pytest.mark.parametrize(
    ("payload", "flags", "reason"),
    [
        pytest.param(b"", 0, "0 bytes are too few", id="empty"),
        pytest.param(EAGAIN + HEADER[:-1], 0, "19 bytes are too few", id="a short header"),
        pytest.param(
            struct.pack("=i", 11) + HEADER, NlmsgFlag.CAPPED, "holds 11, which", id="a positive error"
        ),
        pytest.param(
            struct.pack("=i", -4096) + HEADER, NlmsgFlag.CAPPED, "holds -4096", id="too large an error"
        ),
        pytest.param(EAGAIN + HEADER, 0, "echoes 36 bytes, but 16 remain", id="an echo cut short"),
        pytest.param(EAGAIN + bytes(16), 0, "echoes 0 bytes", id="an echo without length"),
        pytest.param(EAGAIN + REQUEST + b"x", 0, "1 bytes follow", id="bytes behind the echo"),
        pytest.param(
            EAGAIN + HEADER + b"x", NlmsgFlag.CAPPED, "1 bytes follow", id="bytes behind a capped echo"
        ),
        pytest.param(
            EAGAIN + HEADER + b"\0\0\0\0",
            NlmsgFlag.CAPPED | NlmsgFlag.ACK_TLVS,
            "attribute length 0",
            id="broken TLVs",
        ),
        pytest.param(
            EAGAIN + HEADER + encode_attribute(2, b""),
            NlmsgFlag.CAPPED | NlmsgFlag.ACK_TLVS,
            "OFFS has",
            id="bad TLV",
        ),
    ],
)
def test_refuses_an_error(payload: bytes, flags: int, reason: str) -> None:
    with pytest.raises(NetlinkDecodeError, match=reason):
        codec.decode_error_untrusted(error_message(payload, flags))


def extended(*tlvs: bytes) -> str:
    message = error_message(EAGAIN + HEADER + b"".join(tlvs), NlmsgFlag.CAPPED | NlmsgFlag.ACK_TLVS)
    return codec.decode_error_untrusted(message).text


@pytest.mark.parametrize(
    ("tlvs", "text"),
    [
        ([], ""),
        ([encode_attribute(1, b"go away\0")], "go away"),
        ([encode_attribute(1, b"go\x1b[2Jaway\n\0")], "go?[2Jaway?"),
        ([encode_attribute(1, b"\xff\xfe\0")], "\ufffd\ufffd"),
        ([u32(5, 2)], "attribute 2 is missing"),
        ([encode_attribute(1, b"no\0"), u32(2, 20)], "no, at byte 20 of the request"),
        ([encode_attribute(3, b"cookie"), encode_attribute(4, b"policy")], ""),
    ],
)
def test_puts_the_extended_acknowledgement_into_words(tlvs: list[bytes], text: str) -> None:
    assert extended(*tlvs) == text


def test_bounds_the_extended_acknowledgement() -> None:
    assert extended(encode_attribute(1, b"x" * 60000)) == "x" * codec.MAX_TEXT


# Mutations: nothing but NetlinkDecodeError comes out, whatever is changed.

GOOD = [
    messages.encode_get_family(sequence=1),
    messages.encode_accept(family_id=0x1F, sequence=1),
    messages.encode_accept_reply(FULL_REPLY, family_id=0x1F, sequence=1),
    messages.encode_new_family(FAMILY, sequence=1),
    messages.encode_ready(family_id=0x1F),
    messages.encode_error(request=REQUEST, error=22, text="no", offset=20, missing=3),
    REQUEST,
]


def decode_everything(datagram: bytes) -> None:
    """Run every decoder over every message."""
    try:
        found = list(codec.split_messages_untrusted(datagram))
    except NetlinkDecodeError:
        return
    for message in found:
        chain = message.payload[4:]
        assert isinstance(codec.decode_accept_reply_untrusted(chain), AcceptReply)
        for decode in (
            codec.decode_done_untrusted,
            codec.decode_family_untrusted,
            codec.decode_handler_class_untrusted,
        ):
            try:
                decode(chain)
            except NetlinkDecodeError as error:
                assert str(error)  # noqa: PT017 - most mutations are no error
        try:
            codec.decode_error_untrusted(message)
        except NetlinkDecodeError as error:
            assert str(error)  # noqa: PT017


@pytest.mark.parametrize("good", GOOD)
def test_survives_every_truncation(good: bytes) -> None:
    for length in range(len(good)):
        decode_everything(good[:length])
        with pytest.raises(NetlinkDecodeError):
            list(codec.split_messages_untrusted(good[:length] or b"\0"))


@pytest.mark.parametrize("good", GOOD)
def test_survives_every_changed_byte(good: bytes) -> None:
    for place in range(len(good)):
        for value in (0, 1, 3, 0x7F, 0x80, 0xFF, good[place] ^ 1, good[place] ^ 0x80):
            decode_everything(good[:place] + bytes([value]) + good[place + 1 :])


@pytest.mark.parametrize("good", GOOD)
@given(appended=st.binary(min_size=1, max_size=40))
def test_survives_appended_bytes(good: bytes, appended: bytes) -> None:
    decode_everything(good + appended)


@given(st.binary(max_size=300))
def test_survives_anything(datagram: bytes) -> None:
    decode_everything(datagram)
    decode_everything(encode_message(0x1F, datagram))
