"""The numbers of the netlink protocols that the agent speaks, each table once.

The `handshake` family comes from the kernel's `Documentation/netlink/specs/handshake.yaml`; the tests compare
every table below with that file, of a kernel that has KEYRING and of one that has not.  The rest, netlink's own
numbers and those of the generic netlink controller, comes from `include/uapi/linux/netlink.h` and `genetlink.h`.

An attribute set is an `AttributeSet` whose members are the attributes: number, kind, and whether the attribute
may be repeated.  From the same members `messages` makes the `nla_map` of pyroute2's classes, by which
attributes are encoded, and `codec` decodes.  DONE ends at 3: several proposals claim 4 with different
meanings, and the kernel refuses a DONE that holds an attribute it doesn't know.
"""

import enum
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FAMILY_NAME: Final = "handshake"
FAMILY_VERSION: Final = 1
MAX_ERRNO: Final = 4095  # The largest STATUS and the largest error of an NLMSG_ERROR: include/linux/err.h.


class Kind(enum.Enum):
    """What an attribute holds; the values are the names that pyroute2 has for it."""

    U16 = "uint16"
    U32 = "uint32"
    S32 = "int32"
    STRING = "asciiz"
    X509 = "X509|nested"
    MCAST_GROUPS = "*mcast_groups"


class AttributeSet(enum.Enum):
    """The base of every attribute set; see the module's docstring.

    Attributes:
        number: The type in the attribute's header, flags masked out.
        kind: What the payload holds.
        repeated: Whether a message may hold the attribute more than once.
    """

    number: int
    kind: Kind
    repeated: bool

    __hash__ = (
        object.__hash__
    )  # each is there once; enum's own is Python, and decoding looks members up all the time

    def __init__(self, number: int, kind: Kind, repeated: bool = False) -> None:  # noqa: FBT001, FBT002
        self.number = number
        self.kind = kind
        self.repeated = repeated


@functools.cache
def by_number(table: type[AttributeSet]) -> Mapping[int, AttributeSet]:
    """A set's attributes by their numbers."""
    return MappingProxyType({attribute.number: attribute for attribute in table})


_REPEATED: Final = True


class Command(enum.IntEnum):
    """HANDSHAKE_CMD_*."""

    READY = 1
    ACCEPT = 2
    DONE = 3


class HandlerClass(enum.IntEnum):
    """HANDSHAKE_HANDLER_CLASS_*; the kernel's MAX only counts the classes."""

    NONE = 0
    TLSHD = 1


class MessageType(enum.IntEnum):
    """HANDSHAKE_MSG_TYPE_*: which side of the handshake the agent is to play."""

    UNSPEC = 0
    CLIENTHELLO = 1
    SERVERHELLO = 2


class Auth(enum.IntEnum):
    """HANDSHAKE_AUTH_*: with what the two sides authenticate."""

    UNSPEC = 0
    UNAUTH = 1
    PSK = 2
    X509 = 3


class MulticastGroup(enum.StrEnum):
    """The family's multicast groups: READY for a handler class goes to the group of the same name."""

    NONE = "none"
    TLSHD = "tlshd"


class X509Attribute(AttributeSet):
    """HANDSHAKE_A_X509_*: the inside of one CERTIFICATE."""

    CERT = 1, Kind.S32
    PRIVKEY = 2, Kind.S32


class AcceptAttribute(AttributeSet):
    """HANDSHAKE_A_ACCEPT_*: READY, and ACCEPT's request and reply.  KEYRING came with Linux 6.18."""

    SOCKFD = 1, Kind.S32
    HANDLER_CLASS = 2, Kind.U32
    MESSAGE_TYPE = 3, Kind.U32
    TIMEOUT = 4, Kind.U32
    AUTH_MODE = 5, Kind.U32
    PEER_IDENTITY = 6, Kind.U32, _REPEATED
    CERTIFICATE = 7, Kind.X509, _REPEATED
    PEERNAME = 8, Kind.STRING
    KEYRING = 9, Kind.U32


class DoneAttribute(AttributeSet):
    """HANDSHAKE_A_DONE_*."""

    STATUS = 1, Kind.U32
    SOCKFD = 2, Kind.S32
    REMOTE_AUTH = 3, Kind.U32, _REPEATED


class NlmsgType(enum.IntEnum):
    """NLMSG_*: message types below NLMSG_MIN_TYPE, and GENL_ID_CTRL, the controller's fixed number."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4
    GENL_ID_CTRL = 16


class NlmsgFlag(enum.IntFlag):
    """NLM_F_*: CAPPED and ACK_TLVS are flags of NLMSG_ERROR only."""

    REQUEST = 0x001
    MULTI = 0x002
    ACK = 0x004
    CAPPED = 0x100
    ACK_TLVS = 0x200


class NlmsgerrAttribute(AttributeSet):
    """NLMSGERR_ATTR_*: the extended acknowledgement; the ones left out are of no use to the agent."""

    MSG = 1, Kind.STRING
    OFFS = 2, Kind.U32
    MISS_TYPE = 5, Kind.U32


class CtrlCommand(enum.IntEnum):
    """CTRL_CMD_*: the two that resolve a family."""

    NEWFAMILY = 1
    GETFAMILY = 3


class CtrlAttribute(AttributeSet):
    """CTRL_ATTR_*: the ones that resolve a family."""

    FAMILY_ID = 1, Kind.U16
    FAMILY_NAME = 2, Kind.STRING
    VERSION = 3, Kind.U32
    MCAST_GROUPS = 7, Kind.MCAST_GROUPS


class CtrlGroupAttribute(AttributeSet):
    """CTRL_ATTR_MCAST_GRP_*: the inside of one entry of CTRL_ATTR_MCAST_GROUPS."""

    NAME = 1, Kind.STRING
    ID = 2, Kind.U32
