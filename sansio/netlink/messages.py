"""Messages out: pyroute2's classes for the `handshake` family, and the functions that encode with them.

The classes' `nla_map` is made from the tables of `spec`.  pyroute2 only encodes here.  What comes from the kernel
is decoded by `codec` under bounds of its own: pyroute2's decoder clamps wrong lengths instead of refusing
them, decodes lazily, and logs.

Each `encode_*` has its `decode_*_untrusted` in `codec`.  Those of the kernel's side serve the simulated kernel
and the tests.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from pyroute2.netlink import ctrlmsg, genlmsg, nla

from . import spec
from .events import AcceptReply, CertificateSerials, FamilyResolved
from .spec import AcceptAttribute, AttributeSet, DoneAttribute, NlmsgFlag, NlmsgType, X509Attribute

NLMSG_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id.
NLA_HEADER: Final = struct.Struct("=HH")  # struct nlattr: length, type.
U32: Final = struct.Struct("=I")
S32: Final = struct.Struct("=i")
_FIRST_VALUE: Final = NLMSG_HEADER.size + 4 + NLA_HEADER.size  # behind struct genlmsghdr, too
_NLMSGERR: Final = struct.Struct(
    "=i"
)  # The start of struct nlmsgerr: the error; the request's header follows.

_Attributes = list[tuple[str, object]]


def _nla_map(table: type[AttributeSet]) -> tuple[tuple[int, str, str], ...]:
    return tuple((attribute.number, attribute.name, attribute.kind.value) for attribute in table)


class AcceptMessage(genlmsg):
    """READY, and ACCEPT's request and reply."""

    nla_map = _nla_map(AcceptAttribute)

    class X509(nla):
        """The inside of CERTIFICATE."""

        nla_map = _nla_map(X509Attribute)


class DoneMessage(genlmsg):
    """DONE."""

    nla_map = _nla_map(DoneAttribute)


def align(length: int) -> int:
    """Round up to NLMSG_ALIGNTO and NLA_ALIGNTO, which are both 4."""
    return (length + 3) & ~3


def encode_get_family(*, sequence: int) -> bytes:
    """Encode CTRL_CMD_GETFAMILY for the family `handshake`."""
    return _encode(
        ctrlmsg(),
        message_type=NlmsgType.GENL_ID_CTRL,
        command=spec.CtrlCommand.GETFAMILY,
        flags=NlmsgFlag.REQUEST,
        sequence=sequence,
        attributes=[("CTRL_ATTR_FAMILY_NAME", spec.FAMILY_NAME)],
    )


def encode_accept(*, family_id: int, sequence: int, handler_class: int = spec.HandlerClass.TLSHD) -> bytes:
    """Encode ACCEPT's request."""
    return _numbered(_accept_template(family_id, handler_class), sequence)


@lru_cache(maxsize=16)
def _accept_template(family_id: int, handler_class: int) -> bytes:
    return _encode(
        AcceptMessage(),
        message_type=family_id,
        command=spec.Command.ACCEPT,
        flags=NlmsgFlag.REQUEST,
        attributes=[(AcceptAttribute.HANDLER_CLASS.name, handler_class)],
    )


def encode_done(
    *, family_id: int, sequence: int, status: int | None, sockfd: int | None, remote_auth: Sequence[int] = ()
) -> bytes:
    """Encode DONE, which asks for an acknowledgement; None leaves the attribute out."""
    names: list[DoneAttribute] = []
    values: list[int] = []
    for name, value in (
        (DoneAttribute.STATUS, status),
        (DoneAttribute.SOCKFD, sockfd),
        *((DoneAttribute.REMOTE_AUTH, serial) for serial in remote_auth),
    ):
        if value is not None:
            names.append(name)
            values.append(value)
    data = bytearray(_numbered(_done_template(family_id, tuple(names)), sequence))
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        layout = S32 if name is DoneAttribute.SOCKFD else U32
        layout.pack_into(data, _FIRST_VALUE + index * (NLA_HEADER.size + U32.size), value)
    return bytes(data)


@lru_cache(maxsize=16)
def _done_template(family_id: int, names: tuple[DoneAttribute, ...]) -> bytes:
    """DONE with these attributes, each with the value 0."""
    return _encode(
        DoneMessage(),
        message_type=family_id,
        command=spec.Command.DONE,
        flags=NlmsgFlag.REQUEST | NlmsgFlag.ACK,
        attributes=[(name.name, 0) for name in names],
    )


def _numbered(template: bytes, sequence: int) -> bytes:
    """A message with its sequence number (struct nlmsghdr, nlmsg_seq): pyroute2 takes 20 us for each it encodes."""
    return template[:8] + U32.pack(sequence) + template[12:]


def encode_new_family(family: FamilyResolved, *, sequence: int) -> bytes:
    """Encode the controller's answer to GETFAMILY (the kernel's side)."""
    groups = [
        {"attrs": [("CTRL_ATTR_MCAST_GRP_ID", number), ("CTRL_ATTR_MCAST_GRP_NAME", name)]}
        for name, number in family.groups.items()
    ]
    return _encode(
        ctrlmsg(),
        message_type=NlmsgType.GENL_ID_CTRL,
        command=spec.CtrlCommand.NEWFAMILY,
        sequence=sequence,
        attributes=[
            ("CTRL_ATTR_FAMILY_NAME", spec.FAMILY_NAME),
            ("CTRL_ATTR_FAMILY_ID", family.family_id),
            ("CTRL_ATTR_VERSION", family.version),
            ("CTRL_ATTR_MCAST_GROUPS", groups),
        ],
    )


def encode_ready(*, family_id: int, handler_class: int = spec.HandlerClass.TLSHD) -> bytes:
    """Encode READY (the kernel's side)."""
    return _encode(
        AcceptMessage(),
        message_type=family_id,
        command=spec.Command.READY,
        attributes=[(AcceptAttribute.HANDLER_CLASS.name, handler_class)],
    )


def encode_accept_reply(reply: AcceptReply, *, family_id: int, sequence: int) -> bytes:
    """Encode ACCEPT's reply (the kernel's side), in the order in which `tls_handshake_accept` puts it.

    `reply.unknown` and `reply.defect` are left out.
    """
    attributes: _Attributes = []
    _add(attributes, AcceptAttribute.SOCKFD, reply.sockfd)
    _add(attributes, AcceptAttribute.MESSAGE_TYPE, reply.message_type)
    if reply.peername is not None:
        _add(attributes, AcceptAttribute.PEERNAME, reply.peername.encode(errors="surrogateescape"))
    _add(attributes, AcceptAttribute.TIMEOUT, reply.timeout_ms)
    _add(attributes, AcceptAttribute.KEYRING, reply.keyring)
    _add(attributes, AcceptAttribute.AUTH_MODE, reply.auth_mode)
    for serial in reply.peer_identities:
        _add(attributes, AcceptAttribute.PEER_IDENTITY, serial)
    for certificate in reply.certificates:
        _add(attributes, AcceptAttribute.CERTIFICATE, _certificate(certificate))
    return _encode(
        AcceptMessage(),
        message_type=family_id,
        command=spec.Command.ACCEPT,
        sequence=sequence,
        attributes=attributes,
    )


def encode_error(
    *,
    request: bytes,
    error: int,
    text: str = "",
    offset: int | None = None,
    missing: int | None = None,
    capped: bool = False,
) -> bytes:
    """Encode NLMSG_ERROR (the kernel's side: `netlink_ack`).

    Args:
        request: The whole message that is answered.
        error: 0 for an acknowledgement, or a positive errno.
        text: NLMSGERR_ATTR_MSG; "" leaves it out.
        offset: NLMSGERR_ATTR_OFFS, where in the request the bad attribute lies; None leaves it out.
        missing: NLMSGERR_ATTR_MISS_TYPE, the type of the attribute that is not there; None leaves it out.
        capped: Whether the request's payload is left out; with an acknowledgement it always is.
    """
    capped = capped or error == 0
    tlvs = b""
    if text:
        tlvs += encode_attribute(spec.NlmsgerrAttribute.MSG.number, text.encode() + b"\0")
    if offset is not None:
        tlvs += encode_attribute(spec.NlmsgerrAttribute.OFFS.number, U32.pack(offset))
    if missing is not None:
        tlvs += encode_attribute(spec.NlmsgerrAttribute.MISS_TYPE.number, U32.pack(missing))
    flags = (NlmsgFlag.CAPPED if capped else 0) | (NlmsgFlag.ACK_TLVS if tlvs else 0)
    echoed = request[: NLMSG_HEADER.size] if capped else request + bytes(align(len(request)) - len(request))
    sequence = NLMSG_HEADER.unpack_from(request)[3]
    payload = _NLMSGERR.pack(-error) + echoed + tlvs
    return encode_message(NlmsgType.ERROR, payload, flags=flags, sequence=sequence)


def encode_message(message_type: int, payload: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    """Encode a netlink message from its parts, whatever they are."""
    length = NLMSG_HEADER.size + len(payload)
    return NLMSG_HEADER.pack(length, message_type, flags, sequence, 0) + payload


def encode_attribute(number: int, payload: bytes) -> bytes:
    """Encode one attribute with its padding, whatever it is."""
    length = NLA_HEADER.size + len(payload)
    return NLA_HEADER.pack(length, number) + payload + bytes(align(length) - length)


def _certificate(serials: CertificateSerials) -> dict[str, _Attributes]:
    attributes: _Attributes = []
    _add(attributes, X509Attribute.CERT, serials.certificate)
    _add(attributes, X509Attribute.PRIVKEY, serials.private_key)
    return {"attrs": attributes}


def _add(attributes: _Attributes, attribute: AttributeSet, value: object) -> None:
    if value is not None:
        attributes.append((attribute.name, value))


def _encode(
    message: genlmsg,
    *,
    message_type: int,
    command: int,
    attributes: _Attributes,
    flags: int = 0,
    sequence: int = 0,
) -> bytes:
    message["header"] = {
        "type": int(message_type),
        "flags": int(flags),
        "sequence_number": sequence,
        "pid": 0,
    }
    message["cmd"] = int(command)
    message["version"] = spec.FAMILY_VERSION
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)
