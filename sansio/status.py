"""Why a handshake failed, and what each side is told about it.

One table, `OUTCOMES`, maps every cause of failure to the status that the kernel's consumer gets in DONE and
to the alert that the peer gets.  Everything above (lifecycle, log lines, metrics, documentation) reads it.

The statuses are those that the kernel's `Documentation/networking/tls-handshake.rst` defines (0, EACCES,
ENOMEM, EINVAL, ENOKEY, EIO) and ETIMEDOUT, which sunrpc passes on unchanged.  sunrpc turns every other status
into EACCES.  The NVMe host never connects again after ENOKEY or EKEYREJECTED: ENOKEY is kept for
what a second try can't mend.
"""

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Alert(enum.IntEnum):
    """AlertDescription, RFC 8446 section 6 (and the registry for the values of its extensions)."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class Cause(enum.Enum):
    """Every reason for which a request can end without keys."""

    PEER_ALERT = "the peer ended the handshake with an alert"
    PROTOCOL_VIOLATION = "the peer broke the TLS protocol"
    NO_COMMON_PARAMETERS = "no TLS parameters that both sides accept"
    BAD_CERTIFICATE = "the peer's certificate is not valid"
    CERTIFICATE_EXPIRED = "the peer's certificate is outside its validity period"
    CERTIFICATE_REVOKED = "the peer's certificate has been revoked"
    REVOCATION_UNKNOWN = "whether the peer's certificate has been revoked can't be told"
    UNKNOWN_CA = "the peer's certificate comes from no trusted authority"
    NAME_MISMATCH = "the peer's certificate is for another name"
    WRONG_PURPOSE = "the peer's certificate is not meant for this role"
    NO_PEER_CERTIFICATE = "the peer presented no certificate"
    UNKNOWN_PSK = "the peer offered no pre-shared key that this side knows"
    PSK_MISMATCH = "the peer has another pre-shared key of the same identity"
    NO_CREDENTIALS = "no certificate or key is configured for this role"
    NO_TRUST_ANCHORS = "no trusted authority is configured to verify the peer with"
    KEY_UNREADABLE = "a key that the request names can't be read"
    PSK_UNAVAILABLE = "the pre-shared keys that the request names can't be read now"
    PSK_UNUSABLE = "the pre-shared keys that the request names can never be used"
    TIMED_OUT = "the handshake did not end in time"
    CANCELLED = "the kernel's consumer hung up"
    END_OF_FILE = "the peer closed the connection"
    CONNECTION_LOST = "the connection broke"
    KTLS_REFUSED = "the kernel refused the keys"
    NO_MEMORY = "out of memory or descriptors"
    INVALID_REQUEST = "the kernel's request is incomplete or contradictory"
    SHUTDOWN = "the agent is stopping"
    INTERNAL = "a defect in the agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What each side is told about one cause.

    Attributes:
        status: The positive errno that goes into DONE's STATUS attribute.
        alert: The alert that the peer gets; None where it gets none, or where the cause itself brings one.
        why: Why this status and this alert.
        remedy: What an administrator can do about it, in one or two sentences; what this very case asks for is in
            its `Failure.reason`.
    """

    status: int
    alert: Alert | None
    why: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed handshake.

    Attributes:
        cause: The row of `OUTCOMES`.
        reason: A sentence with the facts of this case, for the log: what, where, and what to do.
        alert: The alert sent to or received from the peer; None if there was none.
    """

    cause: Cause
    reason: str
    alert: Alert | None = None

    @property
    def status(self) -> int:
        """The positive errno for DONE."""
        return OUTCOMES[self.cause].status


def _rejected(alert: Alert | None, why: str, remedy: str) -> Outcome:
    return Outcome(status=errno.EACCES, alert=alert, why=why, remedy=remedy)


OUTCOMES: Final[Mapping[Cause, Outcome]] = MappingProxyType(
    {
        Cause.PEER_ALERT: _rejected(
            None,
            "The peer rejected us; an alert is not answered (RFC 8446, 6.2).",
            remedy="Look into the peer's log: only the peer knows why. The alert's name says where to begin.",
        ),
        Cause.PROTOCOL_VIOLATION: _rejected(
            None,
            "The peer could not be authenticated; the violation itself names the alert.",
            remedy="Make sure that a TLS 1.3 service for this purpose listens there, with nothing in between that "
            "changes the traffic. If so, report it to whoever makes the peer's TLS software.",
        ),
        Cause.NO_COMMON_PARAMETERS: _rejected(
            Alert.HANDSHAKE_FAILURE,
            "RFC 8446, 4.1.1: no overlap in suites, groups or schemes.",
            remedy="Compare what the two sides offer, and allow the peer something that this side has: TLS 1.3 with AES-GCM "
            "and x25519 or secp256r1 is always there.",
        ),
        Cause.BAD_CERTIFICATE: _rejected(
            Alert.BAD_CERTIFICATE,
            "The peer is not authenticated.",
            remedy="Issue the certificate again without the defect that the reason names, and restart the peer's service.",
        ),
        Cause.CERTIFICATE_EXPIRED: _rejected(
            Alert.CERTIFICATE_EXPIRED,
            "The peer is not authenticated.",
            remedy="Renew the certificate that the reason names. If its dates are right, set this machine's clock.",
        ),
        Cause.CERTIFICATE_REVOKED: _rejected(
            Alert.CERTIFICATE_REVOKED,
            "The peer is not authenticated.",
            remedy="Ask the authority why it was revoked, and have a new one issued for a new key.",
        ),
        Cause.UNKNOWN_CA: _rejected(
            Alert.UNKNOWN_CA,
            "The peer is not authenticated.",
            remedy="Put the authority that issued the peer's certificate into the file that x509.truststore names, and let the "
            "peer present its intermediate certificates.",
        ),
        Cause.REVOCATION_UNKNOWN: _rejected(
            Alert.CERTIFICATE_UNKNOWN,
            "RFC 8446, 6.2: an unspecified issue; the certificate may be good, but there is no current list that says so.",
            remedy="Fetch the authority's current revocation list into the file that x509.crl names, and reload the agent.",
        ),
        Cause.NAME_MISMATCH: _rejected(
            Alert.BAD_CERTIFICATE,
            "TLS has no alert for names; OpenSSL and GnuTLS send this one.",
            remedy="Mount or connect by a name that is in the certificate's subjectAltName, or issue the certificate for the "
            "name that is used.",
        ),
        Cause.WRONG_PURPOSE: _rejected(
            Alert.UNSUPPORTED_CERTIFICATE,
            "RFC 8446, 6.2: a certificate of an unsupported type.",
            remedy="Issue the certificate with the key usage and the extended key usage that the peer's role needs.",
        ),
        Cause.NO_PEER_CERTIFICATE: _rejected(
            Alert.CERTIFICATE_REQUIRED,
            "RFC 8446, 4.4.2.4.",
            remedy="Configure a certificate and its key on the peer; an NFS client has to mount with xprtsec=mtls.",
        ),
        Cause.UNKNOWN_PSK: _rejected(
            Alert.UNKNOWN_PSK_IDENTITY,
            "RFC 8446, 6.2; EACCES, not ENOKEY: the peer may come back with another.",
            remedy="Insert the peer's key into this machine's keyring, with the identity that the peer offers.",
        ),
        Cause.PSK_MISMATCH: _rejected(
            Alert.DECRYPT_ERROR,
            "RFC 8446, 6.2: a PSK binder that does not validate.",
            remedy="Insert the same key on both sides: now they hold different ones of one identity.",
        ),
        Cause.NO_CREDENTIALS: Outcome(
            status=errno.ENOKEY,
            alert=Alert.HANDSHAKE_FAILURE,
            why="The kernel document's ENOKEY, missing authentication material: only configuration mends it.",
            remedy="Set x509.certificate and x509.private_key for this role in the configuration, and reload it with SIGHUP.",
        ),
        Cause.NO_TRUST_ANCHORS: Outcome(
            status=errno.ENOKEY,
            alert=Alert.UNKNOWN_CA,
            why="The kernel document's ENOKEY: without an authority no peer is accepted until one is configured.",
            remedy="Set x509.truststore for this role in the configuration, and reload it with SIGHUP.",
        ),
        Cause.KEY_UNREADABLE: Outcome(
            status=errno.ENOKEY,
            alert=Alert.INTERNAL_ERROR,
            why="The kernel document's ENOKEY: a key that is gone or not ours stays so when tried again.",
            remedy="Put the certificate and its private key into the keyring again, readable for the agent, and mount with "
            "their new serials.",
        ),
        Cause.PSK_UNAVAILABLE: Outcome(
            status=errno.EACCES,
            alert=Alert.INTERNAL_ERROR,
            why="A missing key can be put in its place, an expired one extended, a permission given: the NVMe host tries "
            "again after EACCES, and finds its keys anew; after ENOKEY it never would.",
            remedy="Put the key into the keyring that the request names, extend it or give the agent permission to read it; "
            "the host tries again by itself.",
        ),
        Cause.PSK_UNUSABLE: Outcome(
            status=errno.ENOKEY,
            alert=Alert.INTERNAL_ERROR,
            why="The kernel document's ENOKEY: a revoked key stays so, and a key keeps its identity and its length.",
            remedy="Make a new key, insert it on both sides and connect again.",
        ),
        Cause.TIMED_OUT: Outcome(
            status=errno.ETIMEDOUT,
            alert=Alert.USER_CANCELED,
            why="sunrpc passes ETIMEDOUT on, and tries again; the peer is told that the handshake was given up.",
            remedy="Find out who kept silent: see whether the peer's TLS service runs and whether a firewall or the load of "
            "one side delays it.",
        ),
        Cause.CANCELLED: Outcome(
            status=errno.ETIMEDOUT,
            alert=None,
            why="Nobody waits for this status; the consumer has shut the socket down, so no alert passes.",
            remedy="Nothing is to be done if the mount or the connection was given up on purpose. Else see which side was slow, and "
            "why.",
        ),
        Cause.END_OF_FILE: _rejected(
            None,
            "The peer left before it was authenticated; it reads no alert.",
            remedy="Look into the peer's log, and make sure that a TLS service listens there.",
        ),
        Cause.CONNECTION_LOST: _rejected(
            None,
            "The peer can't be reached, so it gets no alert.",
            remedy="Check the network and the peer's service: the connection itself broke, not TLS.",
        ),
        Cause.KTLS_REFUSED: Outcome(
            status=errno.EIO,
            alert=None,
            why="An unexpected fault after the handshake; the keys may be half installed, so nothing is sent.",
            remedy="Load the kernel's tls module (CONFIG_TLS), and use a kernel that knows the cipher that was negotiated.",
        ),
        Cause.NO_MEMORY: Outcome(
            status=errno.ENOMEM,
            alert=Alert.INTERNAL_ERROR,
            why="The kernel document's ENOMEM: may pass.",
            remedy="Give the agent more memory or descriptors (systemd: MemoryMax, LimitNOFILE), or this machine less to do.",
        ),
        Cause.INVALID_REQUEST: Outcome(
            status=errno.EINVAL,
            alert=None,
            why="The kernel document's EINVAL; nothing was said to the peer yet.",
            remedy="Report it: the kernel asked for something that this agent does not know. A newer agent may know it.",
        ),
        Cause.SHUTDOWN: Outcome(
            status=errno.EIO,
            alert=Alert.USER_CANCELED,
            why="A fault from the consumer's view; it may try again.",
            remedy="Start the agent again and repeat the mount or the connection.",
        ),
        Cause.INTERNAL: Outcome(
            status=errno.EIO,
            alert=Alert.INTERNAL_ERROR,
            why="The kernel document's EIO, an unexpected fault.",
            remedy="Report it to the makers of ktls-agent with the reason and, if there is one, a transcript without secrets.",
        ),
    }
)


def failure(cause: Cause, reason: str) -> Failure:
    """Make the failure whose alert is the one that the table gives for `cause`."""
    return Failure(cause=cause, reason=reason, alert=OUTCOMES[cause].alert)
