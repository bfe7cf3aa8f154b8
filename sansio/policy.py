"""Which identity and which trust a request gets: the request in, the engine's parameters out; no I/O.

| request      | presents                                          | verifies                                    |
|--------------|---------------------------------------------------|---------------------------------------------|
| ClientAnon   | nothing                                           | the server, by PEERNAME or else its address |
| ClientX509   | the keys that it names, else the configured files | the server, as above                        |
| ServerX509   | the keys that it names, else the configured files | the client, if it presents a certificate    |
| ClientPsk    | every pre-shared key that it names                | that the server has one of them             |
| ServerPsk    | the keys that the client offers, if it has them   | that the client has one of them             |

Of several pre-shared keys those that can't be used are passed over, with a note, as long as one is left.  What a key
in a keyring is good for is told by its description, which is its identity, and its length: see `nvme`.
"""

import datetime as dt
import errno
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, assert_never

from .config import Configuration
from .nvme import (
    PskUnusable,
    choose_hash_untrusted,
    is_nvme_identity,
    parse_nvme_identity_untrusted,
)
from .request import (
    CertificateKeys,
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    ServerPsk,
    ServerX509,
)
from .status import Cause, Failure, failure
from .tls.hybrid import available
from .tls.parameters import (
    GROUPS,
    HYBRID_GROUPS,
    KEY_SHARES,
    ClientParameters,
    ClientPskParameters,
    Identity,
    Parameters,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
)
from .tls.psk import shown_identity
from .tls.revocation import RevocationJudge
from .tls.truststore import TrustStore
from .tls.verify import ClientCertificateVerifier, ServerCertificateVerifier

LoadKeys = Callable[[CertificateKeys], Identity]
"""Makes an identity of two keys in a keyring; raises RequestRefused."""

LoadPsk = Callable[[int], PreSharedKey]
"""Reads the pre-shared key of a serial; raises RequestRefused."""

Note = Callable[[str], object]
"""Takes a sentence about what is no obstacle, for the log line of the request."""

PSK_ERRORS: Final[Mapping[int, Cause]] = MappingProxyType(
    {
        errno.ENOKEY: Cause.PSK_UNAVAILABLE,
        errno.EKEYEXPIRED: Cause.PSK_UNAVAILABLE,
        errno.EACCES: Cause.PSK_UNAVAILABLE,
        errno.EPERM: Cause.PSK_UNAVAILABLE,
        errno.EKEYREVOKED: Cause.PSK_UNUSABLE,
        errno.EOPNOTSUPP: Cause.PSK_UNUSABLE,
    }
)
"""What it means that the kernel does not let us read a pre-shared key; any other error may pass."""

MAX_KEYS_TOLD: Final = 4
"""How many unusable keys a log line tells of; a request of today's kernels has one, and room for five."""

_GROUPS: Final = {"client": "[authenticate.client]", "server": "[authenticate.server]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchange:
    """The key exchange groups of handshakes.

    Attributes:
        groups: In order of preference, names of `parameters.GROUPS` and `HYBRID_GROUPS`.
        key_shares: Those for which a client sends a share at once.
        psk_key_shares: The same with pre-shared keys.
    """

    groups: tuple[str, ...] = GROUPS
    key_shares: tuple[str, ...] = KEY_SHARES
    psk_key_shares: tuple[str, ...] = KEY_SHARES[:1]

    def shares(self, *, psk: bool) -> tuple[str, ...]:
        """Return the groups for which a client sends a share, with pre-shared keys or without."""
        return self.psk_key_shares if psk else self.key_shares


CLASSICAL: Final = KeyExchange()
"""Elliptic curves only."""

HYBRID: Final = KeyExchange(
    groups=(*HYBRID_GROUPS, *GROUPS),
    key_shares=(HYBRID_GROUPS[0], GROUPS[0]),
    psk_key_shares=(HYBRID_GROUPS[0], GROUPS[0]),
)
"""ML-KEM first.  A server that has only P-256 asks for a second ClientHello: a third share for few of them is not worth it."""

DEFAULT_KEY_EXCHANGE: Final = HYBRID if available() else CLASSICAL


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCredentials:
    """What one role, client or server, has to authenticate with.

    Attributes:
        trust: Whom to trust; None if there is no trust store.
        identity: The agent's own identity; None if none is configured.
        revocation: Knows which certificates were revoked; None does not ask.
    """

    trust: TrustStore | None = None
    identity: Identity | None = None
    revocation: RevocationJudge | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Everything that a configuration names, ready for use.

    Attributes:
        configuration: The configuration itself.
        client: For handshakes as a TLS client.
        server: For handshakes as a TLS server.
        key_exchange: For all handshakes.
        warnings: Sentences about what is odd but no obstacle.
    """

    configuration: Configuration = field(default_factory=Configuration)
    client: RoleCredentials = field(default_factory=RoleCredentials)
    server: RoleCredentials = field(default_factory=RoleCredentials)
    key_exchange: KeyExchange = DEFAULT_KEY_EXCHANGE
    warnings: tuple[str, ...] = ()


class RequestRefused(Exception):  # noqa: N818 - a verdict
    """The request can't be carried out; `failure` says why."""

    def __init__(self, failed: Failure) -> None:
        super().__init__(failed.reason)
        self.failure = failed


def choose_parameters(
    request: HandshakeRequest,
    credentials: Credentials,
    *,
    load_keys: LoadKeys,
    load_psk: LoadPsk,
    note: Note,
    peer_address: str | None,
    now: dt.datetime,
) -> Parameters:
    """Decide what a handshake is to do.

    Args:
        request: What the kernel asked for.
        credentials: What is configured.
        load_keys: Reads the certificates and private keys that the request names.
        load_psk: Reads a pre-shared key that the request names.
        note: Is told why a pre-shared key was passed over.
        peer_address: The peer's address: its name if the consumer gave none.  It is not looked up in the DNS, whose
            answers anybody may forge.
        now: The time for which certificates have to be valid.

    Raises:
        RequestRefused: Something that it takes is missing.
    """
    exchange = credentials.key_exchange
    match request:
        case ClientAnon():
            return _client(request, credentials, None, peer_address, now)
        case ClientX509():
            own = _identities(request.certificates[:1], credentials.client, load_keys, "client")
            return _client(request, credentials, own[0], peer_address, now)
        case ServerX509():
            own = _identities(request.certificates, credentials.server, load_keys, "server")
            return _server(credentials, own, now)
        case ClientPsk():
            keys, failures = load_psks(request.peer_identities, load_psk)
            if not keys:
                raise RequestRefused(_none_left(failures))
            for sentence in tell_failures(failures):
                note(sentence)
            return ClientPskParameters(
                keys=keys, groups=exchange.groups, key_shares=exchange.shares(psk=True)
            )
        case ServerPsk():
            return ServerPskParameters(groups=exchange.groups)
        case _:
            assert_never(request)


def load_psks(serials: Iterable[int], load: LoadPsk) -> tuple[tuple[PreSharedKey, ...], tuple[Failure, ...]]:
    """Load pre-shared keys, in their order; of several with one identity, the first.

    Returns:
        Those that can be used, and why the others can't.
    """
    keys: dict[bytes, PreSharedKey] = {}
    failures = []
    for serial in serials:
        try:
            key = load(serial)
        except RequestRefused as refused:
            failures.append(refused.failure)
        else:
            keys.setdefault(key.identity, key)
    return tuple(keys.values()), tuple(failures)


def tell_failures(failures: Sequence[Failure]) -> list[str]:
    """Say why keys can't be used, in `MAX_KEYS_TOLD` sentences and the number of the rest."""
    sentences = [failed.reason for failed in failures[:MAX_KEYS_TOLD]]
    more = len(failures) - MAX_KEYS_TOLD
    return [*sentences, f"So it is with {more} more."] if more > 0 else sentences


def make_psk_untrusted(serial: int, description: bytes, payload: bytes) -> PreSharedKey:
    """Make a pre-shared key of what a keyring holds.

    Args:
        serial: The key's serial.
        description: Its description, which is its identity.
        payload: Its secret.

    Raises:
        RequestRefused: It can't be used.
    """
    try:
        hash_name = choose_hash_untrusted(description, payload)
    except PskUnusable as error:
        reason = f"The key {serial} ({shown_identity(description)}) can't be used: {error}."
        raise RequestRefused(failure(Cause.PSK_UNUSABLE, reason)) from None
    return PreSharedKey(identity=description, secret=payload, hash_name=hash_name, serial=serial)


def check_offered_untrusted(identity: bytes) -> None:
    """Judge an identity that a client offers, before any keyring is asked for it.

    Raises:
        RequestRefused: It claims to be NVMe's, and is malformed.
    """
    try:
        if is_nvme_identity(identity):
            parse_nvme_identity_untrusted(identity)
    except PskUnusable as error:
        reason = f"The client offers {shown_identity(identity)}, which is refused: {error}."
        raise RequestRefused(failure(Cause.UNKNOWN_PSK, reason)) from None


def psk_unreadable(error: int, reason: str) -> RequestRefused:
    """Make the refusal for a pre-shared key that the kernel does not let us read.

    Args:
        error: The kernel's errno.
        reason: A sentence.
    """
    return RequestRefused(failure(PSK_ERRORS.get(error, Cause.PSK_UNAVAILABLE), reason))


def server_name_of(request: HandshakeRequest, peer_address: str | None) -> str | None:
    """Return the name by which a client knows its server; None if there is none at all."""
    return request.peername or peer_address


def _client(
    request: ClientAnon | ClientX509,
    credentials: Credentials,
    identity: Identity | None,
    peer_address: str | None,
    now: dt.datetime,
) -> ClientParameters:
    name = server_name_of(request, peer_address)
    if name is None:
        raise RequestRefused(
            failure(
                Cause.CONNECTION_LOST,
                "The request has no PEERNAME, and the connection was gone before its address could be read.",
            )
        )
    role = credentials.client
    verifier = ServerCertificateVerifier(_trust(role), name=name, now=now, revocation=role.revocation)
    return ClientParameters(
        verifier=verifier,
        server_name=_sni(name),
        identity=identity,
        groups=credentials.key_exchange.groups,
        key_shares=credentials.key_exchange.shares(psk=False),
    )


def _server(credentials: Credentials, identities: tuple[Identity, ...], now: dt.datetime) -> ServerParameters:
    role, groups = credentials.server, credentials.key_exchange.groups
    if role.trust is None:
        # Clients need no certificate: without a trust store none is asked for, and nobody is taken for authenticated.
        return ServerParameters(identities=identities, groups=groups)
    return ServerParameters(
        identities=identities,
        groups=groups,
        verifier=ClientCertificateVerifier(role.trust, now=now, revocation=role.revocation),
        certificate_authorities=role.trust.subjects,
    )


def _none_left(failures: tuple[Failure, ...]) -> Failure:
    """One failure for all: as long as one of the keys may be mended, it is worth another try."""
    mendable = any(failed.cause is Cause.PSK_UNAVAILABLE for failed in failures)
    cause = Cause.PSK_UNAVAILABLE if mendable else Cause.PSK_UNUSABLE
    return failure(cause, " ".join(tell_failures(failures)))


def _trust(role: RoleCredentials) -> TrustStore:
    if role.trust is None:
        raise RequestRefused(
            failure(
                Cause.NO_TRUST_ANCHORS,
                "This system has no trust store in a usual place; set x509.truststore in [authenticate.client].",
            )
        )
    return role.trust


def _identities(
    certificates: tuple[CertificateKeys, ...], role: RoleCredentials, load_keys: LoadKeys, name: str
) -> tuple[Identity, ...]:
    if certificates:
        return tuple(load_keys(pair) for pair in certificates)
    if role.identity is None:
        raise RequestRefused(
            failure(
                Cause.NO_CREDENTIALS,
                f"The {name} has no certificate; set x509.certificate and x509.private_key in {_GROUPS[name]}.",
            )
        )
    return (role.identity,)


def _sni(name: str) -> str | None:
    """Make the name for server_name: RFC 6066, 3 has no addresses, no final dot and only ASCII."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name.removesuffix(".") if name.isascii() else None
    return None
