"""Judges the certificate chain of a peer: the name, the purpose, the validity and the way to a trust anchor.

    verifier = ServerCertificateVerifier(store, name="nfs.example", now=now)      # one for each request
    peer, leaf = verifier.verify_untrusted(chain)                                # or CertificateRejected

First the bounds: the number of certificates, their bytes, and the size of every key, before any operation on a
key that a stranger chose.  Then `cryptography.x509.verification` decides; what it refuses is refused.  Its reasons
are terse, so `diagnosis` looks for the fact that a person can act on, and only explains.

The library's defaults are those of the public web.  Private authorities differ, so `_CA` and `_EE` relax what
OpenSSL and GnuTLS accept too, without giving up a check:

- a leaf without authorityKeyIdentifier, and an authority whose identifier names issuer and serial (easy-rsa);
- an authority without keyUsage; with one, keyCertSign has to be in it (RFC 5280, 4.2.1.3);
- basicConstraints that is not critical; it still has to be there and to say CA, and path length and name
  constraints are enforced;
- extendedKeyUsage: absent, anyExtendedKeyUsage, serverAuth / clientAuth, or RFC 9289's id-kp-rpcTLSServer /
  id-kp-rpcTLSClient; anything else is refused, in the leaf as in each authority above it;
- a leaf that may also sign certificates, as `openssl req -x509` makes them: it can vouch for no more by being
  presented than its owner could sign with it anyway;
- a client without subjectAltName: nothing is compared with it.

One thing is stricter: a leaf whose keyUsage lacks digitalSignature is refused (RFC 8446, 4.4.2.2).

A certificate that is itself in the store ends the search, whatever it is: a pinned self-signed server is accepted
if name, validity and purpose are right, as OpenSSL does.

What was accepted then is looked up in the revocation lists, if there are any: `revocation`.

Limits of the library (version 50), each with its own reason in the rejection: authorities with Ed25519 or Ed448
keys (such leaves are fine), or with a key that is restricted to RSASSA-PSS; SHA-1 signatures; X.509 version 1;
DNS names with an underscore; a subjectAltName that is critical beside a subject, or not critical without one.
Names in the subject (CN) are never compared.  Constraints on directory names don't reach a subject.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    ClientVerifier,
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    ServerVerifier,
    VerificationError,
)

from ..status import Cause, failure
from .certificates import (
    MAX_KEPT,
    MAX_NAMES,
    UNREADABLE,
    alternative_names,
    general_name_text,
    key_problem,
    load_certificate_untrusted,
    name_text,
    printable,
    quiet,
)
from .diagnosis import CLIENT, MAX_CHAIN_LENGTH, SERVER, Case, Role, diagnose
from .parameters import CertificateRejected, PeerCertificate
from .revocation import RevocationJudge
from .truststore import TrustStore, TrustStoreError

__all__ = [
    "MAX_CHAIN_BYTES",
    "MAX_CHAIN_LENGTH",
    "ClientCertificateVerifier",
    "ServerCertificateVerifier",
    "TrustStore",
    "TrustStoreError",
]

MAX_CHAIN_BYTES: Final = 64 << 10
"""Ten certificates of an ordinary kind have less than 20 kB."""


class ServerCertificateVerifier:
    """Judges the chain of a server; a `PeerVerifier`."""

    __slots__ = ("_name", "_now", "_revocation", "_store")

    def __init__(
        self, store: TrustStore, *, name: str, now: dt.datetime, revocation: RevocationJudge | None = None
    ) -> None:
        """Make a verifier for one handshake.

        Args:
            store: Whom to trust.
            name: The server's name, a DNS name or an IP address, that has to be in its subjectAltName.
            now: The time for which certificates have to be valid, with a time zone.
            revocation: Knows which certificates were revoked; None does not ask.

        Raises:
            ValueError: `now` has no time zone.
        """
        self._store = store
        self._name = name
        self._now = _aware(now)
        self._revocation = revocation

    def verify_untrusted(self, chain: Sequence[bytes]) -> tuple[PeerCertificate, x509.Certificate]:
        """Verify DER certificates, the leaf first; see `PeerVerifier`.

        Raises:
            CertificateRejected: The chain is not accepted.
        """
        with quiet():
            certificates = _parse_untrusted(chain, SERVER)
            builder = _builder(self._store, self._now, _SERVER_EE)
            try:
                subject = _subject(self._name)
                verifier = builder.build_server_verifier(subject)
            except ValueError:
                raise _impossible_name(self._name) from None
            case = Case(role=SERVER, chain=certificates, store=self._store, now=self._now, subject=subject)
            return _verdict(chain, case, verifier, self._revocation)


class ClientCertificateVerifier:
    """Judges the chain of a client; a `PeerVerifier`.

    A client of any name is accepted: which of them may connect is decided elsewhere.
    """

    __slots__ = ("_now", "_revocation", "_store")

    def __init__(
        self, store: TrustStore, *, now: dt.datetime, revocation: RevocationJudge | None = None
    ) -> None:
        """Make a verifier for one handshake.

        Args:
            store: Whom to trust.
            now: The time for which certificates have to be valid, with a time zone.
            revocation: Knows which certificates were revoked; None does not ask.

        Raises:
            ValueError: `now` has no time zone.
        """
        self._store = store
        self._now = _aware(now)
        self._revocation = revocation

    def verify_untrusted(self, chain: Sequence[bytes]) -> tuple[PeerCertificate, x509.Certificate]:
        """Verify DER certificates, the leaf first; see `PeerVerifier`.

        Raises:
            CertificateRejected: The chain is not accepted.
        """
        with quiet():
            certificates = _parse_untrusted(chain, CLIENT)
            case = Case(role=CLIENT, chain=certificates, store=self._store, now=self._now, subject=None)
            verifier = _builder(self._store, self._now, _CLIENT_EE).build_client_verifier()
            return _verdict(chain, case, verifier, self._revocation)


def _aware(now: dt.datetime) -> dt.datetime:
    if now.tzinfo is None:
        raise ValueError("The time of a verification needs a time zone.")
    return now.astimezone(dt.UTC)


# Before the verdict: the bounds


def _parse_untrusted(chain: Sequence[bytes], role: Role) -> tuple[x509.Certificate, ...]:
    if not chain:
        raise _rejected(Cause.NO_PEER_CERTIFICATE, f"The {role.noun} presented no certificate.")
    size = sum(len(der) for der in chain)
    if len(chain) > MAX_CHAIN_LENGTH or size > MAX_CHAIN_BYTES:
        raise _rejected(
            Cause.BAD_CERTIFICATE,
            f"The {role.noun} presented {len(chain)} certificates of {size} bytes; at most {MAX_CHAIN_LENGTH} of "
            f"{MAX_CHAIN_BYTES} bytes together are accepted.",
        )
    return tuple(
        _parse_one_untrusted(der, f"Certificate {position} of {len(chain)} that the {role.noun} presented")
        for position, der in enumerate(chain, 1)
    )


def _parse_one_untrusted(der: bytes, which: str) -> x509.Certificate:
    try:
        certificate = load_certificate_untrusted(der)
    except ValueError as error:
        raise _rejected(Cause.BAD_CERTIFICATE, f"{which} can't be parsed: {error}") from None
    problem = key_problem(certificate)
    if problem is not None:
        raise _rejected(Cause.BAD_CERTIFICATE, f"{which} ({name_text(certificate.subject)}) {problem}.")
    return certificate


def _subject(name: str) -> x509.DNSName | x509.IPAddress:
    """Make what a server's subjectAltName has to hold: an address's zone and a final dot are never in there."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return x509.DNSName(name.removesuffix("."))


def _impossible_name(name: str) -> CertificateRejected:
    return _rejected(
        Cause.NAME_MISMATCH,
        f'No certificate can be for "{printable(name)}", which is neither an IP address nor a DNS name. A DNS name '
        "has letters, digits and hyphens only; one in another script is written in its xn-- form.",
    )


def _rejected(cause: Cause, reason: str) -> CertificateRejected:
    return CertificateRejected(failure(cause, reason))


# The verdict


def _verdict(
    chain: Sequence[bytes],
    case: Case,
    verifier: ServerVerifier | ClientVerifier,
    revocation: RevocationJudge | None,
) -> tuple[PeerCertificate, x509.Certificate]:
    try:
        verified = verifier.verify(case.leaf, list(case.chain[1:]))
    except (VerificationError, *UNREADABLE) as error:
        raise CertificateRejected(diagnose(case, str(error))) from None
    if revocation is not None:
        path = verified if isinstance(verified, list) else verified.chain
        failed = revocation.judge(case, path)
        if failed is not None:
            raise CertificateRejected(failed)
    return replace(_peer(case.leaf), chain=tuple(chain)), case.leaf


@lru_cache(maxsize=MAX_KEPT)
def _peer(leaf: x509.Certificate) -> PeerCertificate:
    """What is to be told about a leaf, but for its chain: text, made once for each certificate."""
    return PeerCertificate(
        chain=(),
        subject=name_text(leaf.subject),
        names=tuple(general_name_text(name) for name in alternative_names(leaf)[:MAX_NAMES]),
        issuer=name_text(leaf.issuer),
        not_after=leaf.not_valid_after_utc,
    )


def _builder(store: TrustStore, now: dt.datetime, leaf_policy: ExtensionPolicy) -> PolicyBuilder:
    return (
        PolicyBuilder()
        .store(store.store)
        .time(now)
        .max_chain_depth(MAX_CHAIN_LENGTH - 1)
        .extension_policies(ca_policy=_CA, ee_policy=leaf_policy)
    )


# What the library calls for each extension.  It turns what they raise into a VerificationError.


def _check_ca_key_usage(
    _policy: Policy, _certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("keyUsage of an authority lacks keyCertSign")


def _check_leaf_key_usage(
    _policy: Policy, _certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.digital_signature:
        raise ValueError("keyUsage lacks digitalSignature")


def _check_purpose(
    policy: Policy, _certificate: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    role = SERVER if policy.extended_key_usage == ExtendedKeyUsageOID.SERVER_AUTH else CLIENT
    if extension is not None and role.purposes.isdisjoint(extension):
        raise ValueError(f"extendedKeyUsage is not for a {role.noun}")


_CA: Final = (
    ExtensionPolicy.webpki_defaults_ca()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)  # cA and pathLen: the library itself
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_ca_key_usage)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_purpose)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
)
_SERVER_EE: Final = (
    ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_leaf_key_usage)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_purpose)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
)
_CLIENT_EE: Final = _SERVER_EE.may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
