"""Messages in: netlink decoded strictly, under bounds of its own.

Decoding goes in steps, each of which sees only what the step before has cut out for it:
`split_messages_untrusted` cuts a datagram into messages, `split_genl_untrusted` a payload into command and
attributes, `split_attributes_untrusted` a chain into attributes, and `read_attributes_untrusted` sorts these by a table
of `spec`, checking sizes and repetition.  Every length has to satisfy `header <= length <= remaining`, so that every
loop advances.  Nothing recurses: a nest is opened only by the function that knows what is in it, so the depth is that
of the tables (two) however deep a message nests.  Attributes that no table knows are kept and are not opened.

`NetlinkDecodeError` is the only error that leaves the functions of this module.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar, assert_never

from . import spec
from .events import AcceptReply, CertificateSerials, FamilyResolved
from .messages import NLA_HEADER, NLMSG_HEADER, align
from .spec import (
    AcceptAttribute,
    AttributeSet,
    CtrlAttribute,
    CtrlGroupAttribute,
    DoneAttribute,
    Kind,
    NlmsgerrAttribute,
    NlmsgFlag,
    X509Attribute,
)

MAX_DATAGRAM: Final = 65536
"""Bytes.  The kernel's answers and notifications take a few hundred; this much a caller reads at once."""
MAX_MESSAGES: Final = 64
"""In one datagram.  The kernel puts one there, and several only into dumps, which are never asked for."""
MAX_ATTRIBUTES: Final = 256
"""In one chain.  The longest holds five peer identities, or one entry for each multicast group of a family."""
MAX_TEXT: Final = 512
"""Bytes of an extended acknowledgement's text that are kept; the kernel's are sentences."""

_T = TypeVar("_T")

_GENL_HEADER: Final = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved.
_NLMSGERR: Final = struct.Struct("=iIHHII")  # struct nlmsgerr: error, and the header of what it answers.
_NLA_TYPE_MASK: Final = 0x3FFF  # The bits above are NLA_F_NESTED and NLA_F_NET_BYTEORDER.
_NUMBERS: Final = {
    Kind.U16: struct.Struct("=H"),
    Kind.U32: struct.Struct("=I"),
    Kind.S32: struct.Struct("=i"),
}


class NetlinkDecodeError(ValueError):
    """Bytes from netlink are malformed; the text is a sentence that says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One netlink message.

    Attributes:
        message_type: nlmsg_type.
        flags: nlmsg_flags.
        sequence: nlmsg_seq; 0 for notifications.
        port_id: nlmsg_pid.
        payload: What follows the header, without padding.
    """

    message_type: int
    flags: int
    sequence: int
    port_id: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAttribute:
    """One attribute, not yet interpreted.

    Attributes:
        number: nla_type without its flags.
        payload: What follows the header, without padding.
        offset: Where the attribute's header begins in its chain, in bytes.
    """

    number: int
    payload: bytes
    offset: int


@dataclass(slots=True, kw_only=True)
class Attributes:
    """A chain's attributes by the kind of what they hold.

    Attributes:
        numbers: The values of numeric attributes, in order.
        texts: The values of strings, in order.
        nests: The payloads of nests, in order.
        unknown: (type, payload) of attributes that are not in the table.
        defect: What is wrong with the first malformed attribute, or None.
    """

    numbers: dict[AttributeSet, list[int]] = field(default_factory=dict)
    texts: dict[AttributeSet, list[str]] = field(default_factory=dict)
    nests: dict[AttributeSet, list[bytes]] = field(default_factory=dict)
    unknown: list[tuple[int, bytes]] = field(default_factory=list)
    defect: str | None = None

    def number(self, attribute: AttributeSet) -> int | None:
        """The first value of a numeric attribute, or None."""
        return next(iter(self.numbers.get(attribute, ())), None)

    def text(self, attribute: AttributeSet) -> str | None:
        """The first value of a string, or None."""
        return next(iter(self.texts.get(attribute, ())), None)

    def note_defect(self, reason: str) -> None:
        """Keep `reason` unless there is one already."""
        if self.defect is None:
            self.defect = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneRequest:
    """A DONE as decoded (for captures and the simulated kernel).

    Attributes:
        status: A positive errno or 0; None if there was none.
        sockfd: The descriptor that the DONE is about; None if there was none.
        remote_auth: Key serials of the authenticated peer's identities.
        unknown: (type, payload) of attributes that this version does not know.
    """

    status: int | None = None
    sockfd: int | None = None
    remote_auth: tuple[int, ...] = ()
    unknown: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMessage:
    """An NLMSG_ERROR.

    Attributes:
        error: 0 (an acknowledgement), or a positive errno.
        text: The extended acknowledgement in words, or an empty string: printable, on one line, bounded.
    """

    error: int
    text: str


def split_messages_untrusted(datagram: bytes) -> Iterator[Message]:
    """Cut a datagram into its messages; those before a malformed one are yielded first.

    Raises:
        NetlinkDecodeError: A length is wrong, bytes are left over, or there is too much.
    """
    if len(datagram) > MAX_DATAGRAM:
        raise NetlinkDecodeError(f"a datagram of {len(datagram)} bytes is longer than {MAX_DATAGRAM}")
    offset = count = 0
    while offset < len(datagram):
        if count == MAX_MESSAGES:
            raise NetlinkDecodeError(f"a datagram holds more than {MAX_MESSAGES} messages")
        remaining = len(datagram) - offset
        if remaining < NLMSG_HEADER.size:
            raise NetlinkDecodeError(f"{remaining} bytes at {offset} are too few for a netlink header")
        length, message_type, flags, sequence, port_id = NLMSG_HEADER.unpack_from(datagram, offset)
        if not NLMSG_HEADER.size <= length <= remaining:
            raise NetlinkDecodeError(
                f"message length {length} at {offset} is wrong: {remaining} bytes remain"
            )
        yield Message(
            message_type=message_type,
            flags=flags,
            sequence=sequence,
            port_id=port_id,
            payload=datagram[offset + NLMSG_HEADER.size : offset + length],
        )
        offset += align(length)
        count += 1


def split_genl_untrusted(payload: bytes) -> tuple[int, bytes]:
    """Cut a generic netlink payload into the command and the chain of attributes.

    The version is not looked at: families evolve by attributes, the kernel does not check it either.

    Raises:
        NetlinkDecodeError: The payload is shorter than the header.
    """
    if len(payload) < _GENL_HEADER.size:
        raise NetlinkDecodeError(f"{len(payload)} bytes are too few for a generic netlink header")
    command, _version, _reserved = _GENL_HEADER.unpack_from(payload)
    return command, payload[_GENL_HEADER.size :]


def split_attributes_untrusted(chain: bytes) -> Iterator[RawAttribute]:
    """Cut a chain into its attributes; those before a malformed one are yielded first.

    Raises:
        NetlinkDecodeError: A length is wrong, bytes are left over, or there are too many attributes.
    """
    offset = count = 0
    while offset < len(chain):
        if count == MAX_ATTRIBUTES:
            raise NetlinkDecodeError(f"a chain holds more than {MAX_ATTRIBUTES} attributes")
        remaining = len(chain) - offset
        if remaining < NLA_HEADER.size:
            raise NetlinkDecodeError(f"{remaining} bytes at {offset} are too few for an attribute header")
        length, flagged_type = NLA_HEADER.unpack_from(chain, offset)
        if not NLA_HEADER.size <= length <= remaining:
            raise NetlinkDecodeError(
                f"attribute length {length} at {offset} is wrong: {remaining} bytes remain"
            )
        yield RawAttribute(
            number=flagged_type & _NLA_TYPE_MASK,
            payload=chain[offset + NLA_HEADER.size : offset + length],
            offset=offset,
        )
        offset += align(length)
        count += 1


def read_attributes_untrusted(chain: bytes, table: type[AttributeSet]) -> Attributes:
    """Sort a chain's attributes by `table`, keeping all that is well-formed and noting the first defect.

    Of a scalar that is repeated against the table the first value is kept.  Raises nothing.
    """
    found = Attributes()
    try:
        for raw in split_attributes_untrusted(chain):
            _keep(found, raw, table)
    except NetlinkDecodeError as error:
        found.note_defect(str(error))
    return found


def decode_attributes_untrusted(chain: bytes, table: type[AttributeSet]) -> Attributes:
    """Sort a chain's attributes by `table`.

    Raises:
        NetlinkDecodeError: The chain, or an attribute in it, is malformed.
    """
    found = read_attributes_untrusted(chain, table)
    if found.defect is not None:
        raise NetlinkDecodeError(found.defect)
    return found


def decode_accept_reply_untrusted(chain: bytes) -> AcceptReply:
    """Decode the attributes of ACCEPT's reply.

    Raises nothing: the kernel has installed a descriptor, and whoever gets the reply has to know it.  What is
    malformed is told in the reply's `defect`.
    """
    found = read_attributes_untrusted(chain, AcceptAttribute)
    certificates = tuple(
        _certificate_untrusted(nest, found) for nest in found.nests.get(AcceptAttribute.CERTIFICATE, ())
    )
    sockfd = found.number(AcceptAttribute.SOCKFD)
    if sockfd is not None and sockfd < 0:
        found.note_defect(f"SOCKFD is {sockfd}, which is no descriptor")
        sockfd = None
    return AcceptReply(
        sockfd=sockfd,
        message_type=found.number(AcceptAttribute.MESSAGE_TYPE),
        timeout_ms=found.number(AcceptAttribute.TIMEOUT),
        auth_mode=found.number(AcceptAttribute.AUTH_MODE),
        peer_identities=tuple(found.numbers.get(AcceptAttribute.PEER_IDENTITY, ())),
        certificates=certificates,
        peername=found.text(AcceptAttribute.PEERNAME),
        keyring=found.number(AcceptAttribute.KEYRING),
        unknown=tuple(found.unknown),
        defect=found.defect,
    )


def decode_handler_class_untrusted(chain: bytes) -> int:
    """Decode the attributes of READY, and of ACCEPT's request: HANDLER_CLASS.

    Raises:
        NetlinkDecodeError: The chain is malformed, or there is no HANDLER_CLASS.
    """
    handler_class = decode_attributes_untrusted(chain, AcceptAttribute).number(AcceptAttribute.HANDLER_CLASS)
    if handler_class is None:
        raise NetlinkDecodeError("a message holds no HANDLER_CLASS")
    return handler_class


def decode_done_untrusted(chain: bytes) -> DoneRequest:
    """Decode the attributes of DONE.

    Raises:
        NetlinkDecodeError: The chain, or an attribute in it, is malformed.
    """
    found = decode_attributes_untrusted(chain, DoneAttribute)
    return DoneRequest(
        status=found.number(DoneAttribute.STATUS),
        sockfd=found.number(DoneAttribute.SOCKFD),
        remote_auth=tuple(found.numbers.get(DoneAttribute.REMOTE_AUTH, ())),
        unknown=tuple(found.unknown),
    )


def decode_family_untrusted(chain: bytes) -> FamilyResolved:
    """Decode the attributes of the controller's answer to GETFAMILY.

    Raises:
        NetlinkDecodeError: It is malformed, is about another family, or lacks the id.
    """
    found = decode_attributes_untrusted(chain, CtrlAttribute)
    name = found.text(CtrlAttribute.FAMILY_NAME)
    if name != spec.FAMILY_NAME:
        raise NetlinkDecodeError(f"the controller answered with the family {name!r:.64}")
    family_id = found.number(CtrlAttribute.FAMILY_ID)
    if family_id is None or family_id <= spec.NlmsgType.GENL_ID_CTRL:
        raise NetlinkDecodeError(f"the controller answered with the family id {family_id}")
    groups: dict[str, int] = {}
    for nest in found.nests.get(CtrlAttribute.MCAST_GROUPS, ()):
        for raw in split_attributes_untrusted(nest):
            groups.update([_group_untrusted(raw.payload)])
    return FamilyResolved(
        family_id=family_id, version=found.number(CtrlAttribute.VERSION) or 0, groups=groups
    )


def decode_error_untrusted(message: Message) -> ErrorMessage:
    """Decode an NLMSG_ERROR: the error, the echo of the request, and the extended acknowledgement.

    Raises:
        NetlinkDecodeError: It is malformed.
    """
    payload = message.payload
    if len(payload) < _NLMSGERR.size:
        raise NetlinkDecodeError(f"{len(payload)} bytes are too few for an NLMSG_ERROR")
    error, echoed_length, *_ = _NLMSGERR.unpack_from(payload)
    if not -spec.MAX_ERRNO <= error <= 0:
        raise NetlinkDecodeError(f"an NLMSG_ERROR holds {error}, which is no error number")
    tlvs = payload[_NLMSGERR.size :]
    if not message.flags & NlmsgFlag.CAPPED:
        tlvs = _after_echo_untrusted(tlvs, echoed_length)
    if not message.flags & NlmsgFlag.ACK_TLVS and tlvs:
        raise NetlinkDecodeError(f"{len(tlvs)} bytes follow the request that an NLMSG_ERROR echoes")
    return ErrorMessage(error=-error, text=_extended_ack_untrusted(tlvs))


def _after_echo_untrusted(data: bytes, echoed_length: int) -> bytes:
    remaining = NLMSG_HEADER.size + len(data)
    if not NLMSG_HEADER.size <= echoed_length <= remaining:
        raise NetlinkDecodeError(f"an NLMSG_ERROR echoes {echoed_length} bytes, but {remaining} remain")
    return data[align(echoed_length) - NLMSG_HEADER.size :]


def _extended_ack_untrusted(tlvs: bytes) -> str:
    found = decode_attributes_untrusted(tlvs, NlmsgerrAttribute)
    said = found.text(NlmsgerrAttribute.MSG)
    offset = found.number(NlmsgerrAttribute.OFFS)
    missing = found.number(NlmsgerrAttribute.MISS_TYPE)
    parts = [] if said is None else [_printable(said)]
    if offset is not None:
        parts.append(f"at byte {offset} of the request")
    if missing is not None:
        parts.append(f"attribute {missing} is missing")
    return ", ".join(parts)


def _printable(text: str) -> str:
    kept = text.encode(errors="surrogateescape")[:MAX_TEXT].decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in kept)


def _keep(found: Attributes, raw: RawAttribute, table: type[AttributeSet]) -> None:
    attribute = spec.by_number(table).get(raw.number)
    if attribute is None:
        found.unknown.append((raw.number, raw.payload))
        return
    try:
        _interpret_untrusted(found, attribute, raw.payload)
    except NetlinkDecodeError as error:
        found.note_defect(f"{attribute.name} {error}")


def _interpret_untrusted(found: Attributes, attribute: AttributeSet, payload: bytes) -> None:
    match attribute.kind:
        case Kind.STRING:
            _append(found.texts, attribute, _text_untrusted(payload))
        case Kind.X509 | Kind.MCAST_GROUPS:
            _append(found.nests, attribute, payload)
        case Kind.U16 | Kind.U32 | Kind.S32:
            _append(found.numbers, attribute, _number_untrusted(payload, _NUMBERS[attribute.kind]))
        case _:
            assert_never(attribute.kind)


def _append(values: dict[AttributeSet, list[_T]], attribute: AttributeSet, value: _T) -> None:
    if attribute in values and not attribute.repeated:
        raise NetlinkDecodeError("is repeated")
    values.setdefault(attribute, []).append(value)


def _number_untrusted(payload: bytes, layout: struct.Struct) -> int:
    if len(payload) != layout.size:
        raise NetlinkDecodeError(f"has {len(payload)} bytes instead of {layout.size}")
    (number,) = layout.unpack(payload)
    return int(number)


def _text_untrusted(payload: bytes) -> str:
    """Decode a string, NUL-terminated or not; bytes that are not UTF-8 are kept as surrogates."""
    text = payload.removesuffix(b"\0")
    if b"\0" in text:
        raise NetlinkDecodeError("has a NUL inside")
    return text.decode(errors="surrogateescape")


def _certificate_untrusted(nest: bytes, found: Attributes) -> CertificateSerials:
    serials = read_attributes_untrusted(nest, X509Attribute)
    if serials.defect is not None:
        found.note_defect(f"CERTIFICATE: {serials.defect}")
    return CertificateSerials(
        certificate=serials.number(X509Attribute.CERT), private_key=serials.number(X509Attribute.PRIVKEY)
    )


def _group_untrusted(chain: bytes) -> tuple[str, int]:
    found = decode_attributes_untrusted(chain, CtrlGroupAttribute)
    name, number = found.text(CtrlGroupAttribute.NAME), found.number(CtrlGroupAttribute.ID)
    if name is None or number is None:
        raise NetlinkDecodeError("a multicast group lacks its name or its id")
    return name, number
