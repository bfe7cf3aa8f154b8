"""What the kernel asked for: an ACCEPT reply parsed into one closed union.

`parse_request_untrusted` turns the attributes of an `AcceptReply` into `ClientAnon`, `ClientX509`, `ClientPsk`,
`ServerX509` or `ServerPsk`.  Nothing above it looks at attributes again.  A reply that is incomplete or that
contradicts itself still brought a descriptor whose consumer waits: it becomes an `InvalidRequest`, and is
answered with EINVAL instead of being dropped.  Only a reply without a descriptor can't be answered.

How strict it is follows from what the kernel's `net/handshake/tlshd.c` can send:

- AUTH_MODE is always there and never UNSPEC: each `tls_client_hello_*` and `tls_server_hello_*` sets its own.
  So UNSPEC is refused, as tlshd refuses it, and is not taken for "any".  No consumer asks for a server
  without authentication either (there is no `tls_server_hello_anon`).
- TIMEOUT, KEYRING, PEERNAME, CERTIFICATE are left out when the consumer set none.
- A server's PEER_IDENTITY is 0 (nvmet): the client names the key.  Serials of 0 are left out here.
- CERTIFICATE has both serials or is left out; TLS_NO_CERT (0) for both means "use the agent's own".
- Attributes of another authentication mode are never sent: they are a contradiction.
- Attributes that this version does not know are ignored: a newer kernel may send more.
"""

from dataclasses import dataclass
from typing import Final

from .netlink.events import AcceptReply, CertificateSerials
from .netlink.spec import Auth, MessageType

MAX_KEY_SERIALS: Final = 64
"""The most peer identities or certificates in one request: the kernel's own request holds five."""

MAX_PEERNAME_LENGTH: Final = 255
"""In characters: no DNS name (RFC 1035, 2.3.4), scoped address or AF_LOCAL path is longer."""

_MAX_SERIAL: Final = 2**31 - 1  # key_serial_t is signed; keys have positive serials (security/keys/key.c).


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateKeys:
    """The serials of two keys: a certificate and its private key."""

    certificate: int
    private_key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What every request has.

    Attributes:
        sockfd: The connected socket's descriptor in this process.
        peername: The peer's name as the consumer knows it; None if it named none.
        timeout: Seconds that the consumer waits from when it asked; None if it did not say.
        keyring: The serial of the keyring that the kernel linked into the process keyring, or None.
    """

    sockfd: int
    peername: str | None = None
    timeout: float | None = None
    keyring: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAnon(_Asked):
    """A TLS client that authenticates the server and not itself (`tls_client_hello_anon`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientX509(_Asked):
    """A TLS client with a certificate (`tls_client_hello_x509`).

    Attributes:
        certificates: The keys to use; empty means the agent's own.
    """

    certificates: tuple[CertificateKeys, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPsk(_Asked):
    """A TLS client with pre-shared keys (`tls_client_hello_psk`).

    Attributes:
        peer_identities: Serials of the keys to offer, at least one, in order of preference.
    """

    peer_identities: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerX509(_Asked):
    """A TLS server with a certificate (`tls_server_hello_x509`).

    Attributes:
        certificates: The keys to use; empty means the agent's own.
    """

    certificates: tuple[CertificateKeys, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPsk(_Asked):
    """A TLS server with pre-shared keys (`tls_server_hello_psk`).

    Attributes:
        peer_identities: Serials of the only keys to accept; empty means any that the keyrings hold.
    """

    peer_identities: tuple[int, ...] = ()


HandshakeRequest = ClientAnon | ClientX509 | ClientPsk | ServerX509 | ServerPsk


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidRequest:
    """A request that can't be carried out, to be answered with EINVAL.

    Attributes:
        sockfd: The descriptor that has to be answered and closed.
        reason: A sentence for the log.
    """

    sockfd: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnanswerableReply:
    """An ACCEPT reply without a descriptor: DONE needs one, so it can only be logged.

    Attributes:
        reason: A sentence for the log.
    """

    reason: str


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Says in a sentence why the request is invalid."""


def parse_request_untrusted(reply: AcceptReply) -> HandshakeRequest | InvalidRequest | UnanswerableReply:
    """Judge an ACCEPT reply.

    Args:
        reply: The reply as decoded, with any values at all.

    Returns:
        The request; or, where it is incomplete or contradictory, what there is to answer.  Never raises.
    """
    if reply.sockfd is None or reply.sockfd < 0:
        malformed = f" ({reply.defect})" if reply.defect else ""
        return UnanswerableReply(reason=f"The kernel's ACCEPT reply carries no descriptor{malformed}.")
    try:
        return _parse(reply.sockfd, reply)
    except _Refused as refusal:
        return InvalidRequest(sockfd=reply.sockfd, reason=str(refusal))


def _parse(sockfd: int, reply: AcceptReply) -> HandshakeRequest:
    if reply.defect is not None:
        raise _Refused(f"The kernel's request is malformed: {reply.defect}.")
    peername, timeout, keyring = _peername(reply), _timeout(reply), _keyring(reply)
    certificates, identities = _certificates(reply), _peer_identities(reply)
    message_type, auth = _message_type(reply), _auth(reply)
    match message_type, auth:
        case MessageType.CLIENTHELLO, Auth.UNAUTH:
            return ClientAnon(sockfd=sockfd, peername=peername, timeout=timeout, keyring=keyring)
        case MessageType.CLIENTHELLO, Auth.X509:
            return ClientX509(
                sockfd=sockfd, peername=peername, timeout=timeout, keyring=keyring, certificates=certificates
            )
        case MessageType.CLIENTHELLO, Auth.PSK if identities:
            return ClientPsk(
                sockfd=sockfd, peername=peername, timeout=timeout, keyring=keyring, peer_identities=identities
            )
        case MessageType.SERVERHELLO, Auth.X509:
            return ServerX509(
                sockfd=sockfd, peername=peername, timeout=timeout, keyring=keyring, certificates=certificates
            )
        case MessageType.SERVERHELLO, Auth.PSK:
            return ServerPsk(
                sockfd=sockfd, peername=peername, timeout=timeout, keyring=keyring, peer_identities=identities
            )
        case MessageType.CLIENTHELLO, Auth.PSK:
            raise _Refused("The request is for a PSK client, but has no PEER_IDENTITY that names a key.")
        case _:
            raise _Refused(
                f"The request combines MESSAGE_TYPE {message_type.name} with AUTH_MODE {auth.name}."
            )


def _message_type(reply: AcceptReply) -> MessageType:
    if reply.message_type is None:
        raise _Refused("The request has no MESSAGE_TYPE.")
    try:
        return MessageType(reply.message_type)
    except ValueError:
        raise _Refused(f"The request has the unknown MESSAGE_TYPE {reply.message_type}.") from None


def _auth(reply: AcceptReply) -> Auth:
    if reply.auth_mode is None:
        raise _Refused("The request has no AUTH_MODE.")
    try:
        auth = Auth(reply.auth_mode)
    except ValueError:
        raise _Refused(f"The request has the unknown AUTH_MODE {reply.auth_mode}.") from None
    if reply.certificates and auth is not Auth.X509:
        raise _Refused(f"The request has a CERTIFICATE, but its AUTH_MODE is {auth.name}.")
    if reply.peer_identities and auth is not Auth.PSK:
        raise _Refused(f"The request has a PEER_IDENTITY, but its AUTH_MODE is {auth.name}.")
    return auth


def _peername(reply: AcceptReply) -> str | None:
    if not reply.peername:
        return None
    if len(reply.peername) > MAX_PEERNAME_LENGTH:
        raise _Refused(f"The request's PEERNAME is longer than {MAX_PEERNAME_LENGTH} characters.")
    # It goes into log lines, key descriptions and comparisons: surrogates and control characters break them.
    if not reply.peername.isprintable():
        raise _Refused(f"The request's PEERNAME {reply.peername!a} is not printable text.")
    return reply.peername


def _timeout(reply: AcceptReply) -> float | None:
    if reply.timeout_ms is None:
        return None
    if reply.timeout_ms <= 0:
        raise _Refused(f"The request has a TIMEOUT of {reply.timeout_ms} ms.")
    return reply.timeout_ms / 1000


def _keyring(reply: AcceptReply) -> int | None:
    return _serial("KEYRING", reply.keyring) or None  # 0 is TLS_NO_KEYRING


def _peer_identities(reply: AcceptReply) -> tuple[int, ...]:
    if len(reply.peer_identities) > MAX_KEY_SERIALS:
        raise _Refused(f"The request has more than {MAX_KEY_SERIALS} PEER_IDENTITY attributes.")
    serials = (_serial("PEER_IDENTITY", identity) for identity in reply.peer_identities)
    return tuple(serial for serial in serials if serial)  # 0 is TLS_NO_PEERID


def _certificates(reply: AcceptReply) -> tuple[CertificateKeys, ...]:
    if len(reply.certificates) > MAX_KEY_SERIALS:
        raise _Refused(f"The request has more than {MAX_KEY_SERIALS} CERTIFICATE attributes.")
    pairs = (_certificate(pair) for pair in reply.certificates)
    return tuple(pair for pair in pairs if pair is not None)


def _certificate(pair: CertificateSerials) -> CertificateKeys | None:
    certificate = _serial("certificate", pair.certificate)
    private_key = _serial("private key", pair.private_key)
    if not certificate and not private_key:
        return None
    if not private_key:
        raise _Refused(f"The request names the certificate {certificate} without its private key.")
    if not certificate:
        raise _Refused(f"The request names the private key {private_key} without its certificate.")
    return CertificateKeys(certificate=certificate, private_key=private_key)


def _serial(what: str, serial: int | None) -> int:
    """Check a key serial; 0 stands for no key, as in the kernel."""
    # Negative numbers are the kernel's names for a caller's own keyrings (KEY_SPEC_*), never a key.
    if serial is not None and not 0 <= serial <= _MAX_SERIAL:
        raise _Refused(f"The request's {what} {serial} is not the serial of a key.")
    return serial or 0
