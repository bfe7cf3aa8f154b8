"""Says why a chain was refused, in words that a person can act on.

`verify` asks only after `cryptography` has refused the chain, and what is said here changes nothing about that.
The library's text names neither the certificate nor what to do, so `diagnose` goes the way from the leaf to the
trust store again, as far as it leads, and puts each question of `_QUESTIONS` to it.  The first answer gives the
cause; the next ones are added to the reason, since one who renews a certificate wants to hear of its wrong name too.
When no question has an answer, the library's own text is passed on.

The chain is hostile: each question may fail to read it, which counts as no answer.  The work is bounded by the
length of the chain: for each certificate at most `MAX_SIGNATURE_CHECKS` signatures are tried.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier, PublicKeyAlgorithmOID

from ..status import Cause, Failure, failure
from .certificates import (
    UNREADABLE,
    alternative_names,
    general_name_text,
    key_problem,
    name_text,
    printable,
)
from .truststore import TrustStore

MAX_CHAIN_LENGTH: Final = 10
"""Certificates from the leaf up; public chains have two to four, and the search grows with each."""

MAX_SIGNATURE_CHECKS: Final = 8
"""Authorities of one name that are tried for one certificate."""

MAX_LISTED: Final = 8
"""Names or usages that one sentence lists."""

MAX_REASON: Final = 2000
"""Characters of the whole reason: it is one log line."""

ID_KP_RPC_TLS_CLIENT: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.33")  # RFC 9289, 8.3
ID_KP_RPC_TLS_SERVER: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.34")  # RFC 9289, 8.3


_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a peer is in the handshake.

    Attributes:
        noun: "server" or "client".
        purposes: The extended key usages of which its certificate has to have one, if it has any.
        wanted: The same for a sentence.
    """

    noun: str
    purposes: frozenset[ObjectIdentifier]
    wanted: str


SERVER: Final = Role(
    noun="server",
    purposes=frozenset(
        {ExtendedKeyUsageOID.SERVER_AUTH, ID_KP_RPC_TLS_SERVER, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    ),
    wanted="serverAuth or id-kp-rpcTLSServer",
)
CLIENT: Final = Role(
    noun="client",
    purposes=frozenset(
        {ExtendedKeyUsageOID.CLIENT_AUTH, ID_KP_RPC_TLS_CLIENT, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    ),
    wanted="clientAuth or id-kp-rpcTLSClient",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was judged.

    Attributes:
        role: Whose chain it is.
        chain: The parsed certificates as the peer presented them, the leaf first.
        store: Whom we trust.
        now: The time of the verification, UTC.
        subject: The name that a server has to have; None for a client.
    """

    role: Role
    chain: tuple[x509.Certificate, ...]
    store: TrustStore
    now: dt.datetime
    subject: x509.DNSName | x509.IPAddress | None

    @property
    def leaf(self) -> x509.Certificate:
        """The peer's own certificate."""
        return self.chain[0]

    def title(self, certificate: x509.Certificate) -> str:
        """Name a certificate at the beginning of a sentence."""
        if certificate == self.leaf:
            return f"The {self.role.noun}'s certificate ({_names(certificate)})"
        if certificate in self.store:
            return f"The certificate in the trust store ({_names(certificate)})"
        return f"The intermediate certificate ({_names(certificate)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """The way up from the leaf, as far as it leads.

    Attributes:
        certificates: The leaf and the authorities above it.
        library_text: Why `cryptography` refused the chain.
        end: Why the way ends before the trust store; None if it does not.
    """

    certificates: tuple[x509.Certificate, ...]
    library_text: str
    end: Failure | None = field(default=None)


def diagnose(case: Case, library_text: str) -> Failure:
    """Explain a refusal.

    Args:
        case: What was refused.
        library_text: What `cryptography` says about it.
    """
    answers = _answers(case, library_text)
    if not answers:
        text = printable(library_text, MAX_REASON // 2)
        return failure(Cause.BAD_CERTIFICATE, f"{case.title(case.leaf)} was refused: {text}.")
    reason = " Also: ".join(dict.fromkeys(answer.reason for answer in answers))
    return failure(answers[0].cause, printable(reason, MAX_REASON))


def _answers(case: Case, library_text: str) -> list[Failure]:
    answers: list[Failure] = []
    path = _walk(case, library_text)
    for question in _QUESTIONS:
        try:
            answers.extend(question(case, path))
        except UNREADABLE:
            continue
    return answers


# The way up.  It ends: no presented certificate is taken twice, and the first anchor is the last step.


def _walk(case: Case, library_text: str) -> _Path:
    path = [case.leaf]
    end: Failure | None = None
    while path[-1] not in case.store and end is None:
        issuer = _issuer(case, path)
        if isinstance(issuer, Failure):
            end = issuer
        else:
            path.append(issuer)
    return _Path(certificates=tuple(path), library_text=library_text, end=end)


def _issuer(case: Case, path: list[x509.Certificate]) -> x509.Certificate | Failure:
    """Find who signed the last certificate of a path: in the trust store, or else among those presented."""
    child = path[-1]
    problem = _signature_problem(child)
    if problem is not None:
        return failure(Cause.BAD_CERTIFICATE, f"{case.title(child)} {problem}; SHA-256 or better is needed.")
    if child.subject == child.issuer and _signed(child, child):
        return _unknown(case, child, "is self-signed and is not in the trust store")
    anchors = case.store.named(child.issuer)
    presented = tuple(c for c in case.chain[1:] if c.subject == child.issuer and c not in path)
    candidates = (anchors + presented)[:MAX_SIGNATURE_CHECKS]
    for candidate in candidates:
        if _signed(child, candidate):
            return candidate
    issuer = name_text(child.issuer)
    if anchors:
        return _unknown(
            case,
            child,
            f"has a signature that does not match the key of {issuer} in the trust store; the authority may have "
            "been made again with another key",
        )
    if candidates:
        return failure(
            Cause.BAD_CERTIFICATE,
            f"{case.title(child)} has a signature that does not match the key of {issuer}, which was presented with "
            "it.",
        )
    return _unknown(case, child, f"is issued by {issuer}, which is neither in the trust store nor presented")


def _unknown(case: Case, certificate: x509.Certificate, what: str) -> Failure:
    advice = f"put the authority of the {case.role.noun} into the trust store"
    if what.endswith("presented") and certificate == case.leaf:
        advice += f", or let the {case.role.noun} present its intermediate certificates"
    return failure(Cause.UNKNOWN_CA, f"{case.title(certificate)} {what}; {advice}.")


def _signed(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether the issuer's key made the child's signature; those presented have keys of a bounded size."""
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _signature_problem(certificate: x509.Certificate) -> str | None:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UNREADABLE:
        oid = certificate.signature_algorithm_oid.dotted_string
        return f"is signed with an algorithm that is not supported ({oid})"
    if algorithm is None or isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        return None
    return f"is signed with {algorithm.name.upper()}"


# The questions


def _path_ends(_case: Case, path: _Path) -> Iterator[Failure]:
    if path.end is not None:
        yield path.end


def _outside_validity(case: Case, path: _Path) -> Iterator[Failure]:
    for certificate in path.certificates:
        if case.now < certificate.not_valid_before_utc:
            when = f"is not valid before {moment_text(certificate.not_valid_before_utc)}"
        elif case.now > certificate.not_valid_after_utc:
            when = f"expired on {moment_text(certificate.not_valid_after_utc)}"
        else:
            continue
        text = f"{case.title(certificate)} {when}; it is {moment_text(case.now)} here."
        yield failure(Cause.CERTIFICATE_EXPIRED, text)


def _wrong_name(case: Case, _path: _Path) -> Iterator[Failure]:
    if case.subject is None:
        return
    wanted = general_name_text(case.subject)
    names = alternative_names(case.leaf)
    if not names:
        yield failure(
            Cause.NAME_MISMATCH,
            f"{case.title(case.leaf)} has no subjectAltName; the name in its subject does not count, so {wanted} "
            "has to be put there.",
        )
    elif not any(_matches(name, case.subject) for name in names):
        listed = _listed([general_name_text(name) for name in names])
        yield failure(Cause.NAME_MISMATCH, f"{case.title(case.leaf)} is for {listed}, not for {wanted}.")


def _matches(name: x509.GeneralName, subject: x509.DNSName | x509.IPAddress) -> bool:
    """Compare as the library does: the first label may be a whole wildcard (RFC 6125, 6.4.3)."""
    if isinstance(name, x509.DNSName) and isinstance(subject, x509.DNSName):
        pattern, host = name.value.lower(), subject.value.lower()
        return pattern == host or (pattern[:2] == "*." and pattern[2:] == host.partition(".")[2])
    return name == subject


def _wrong_purpose(case: Case, path: _Path) -> Iterator[Failure]:
    for certificate in path.certificates:
        usages = _extension(certificate, x509.ExtendedKeyUsage)
        if usages is not None and case.role.purposes.isdisjoint(usages):
            listed = _listed([_usage(usage) for usage in usages])
            yield failure(
                Cause.WRONG_PURPOSE,
                f"{case.title(certificate)} has the extended key usage {listed} only; a {case.role.noun} needs "
                f"{case.role.wanted}.",
            )


def _cannot_sign(case: Case, _path: _Path) -> Iterator[Failure]:
    usage = _extension(case.leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        yield failure(
            Cause.WRONG_PURPOSE,
            f"{case.title(case.leaf)} has a keyUsage without digitalSignature, which TLS 1.3 needs.",
        )


def _not_an_authority(case: Case, path: _Path) -> Iterator[Failure]:
    for below, certificate in enumerate(path.certificates[1:]):
        constraints = _extension(certificate, x509.BasicConstraints)
        usage = _extension(certificate, x509.KeyUsage)
        if constraints is None or not constraints.ca:
            what = "is not that of an authority: its basicConstraints do not say so"
        elif usage is not None and not usage.key_cert_sign:
            what = "is not that of an authority: its keyUsage lacks keyCertSign"
        elif constraints.path_length is not None and below > constraints.path_length:
            what = f"allows {constraints.path_length} authorities below it (pathLen); there are {below}"
        else:
            continue
        yield failure(Cause.BAD_CERTIFICATE, f"{case.title(certificate)} {what}.")


def _unsupported_authority_key(case: Case, path: _Path) -> Iterator[Failure]:
    for certificate in path.certificates[1:]:
        match certificate.public_key():
            case rsa.RSAPublicKey() if (
                certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
            ):
                problem = key_problem(certificate)
            case rsa.RSAPublicKey():
                problem = (
                    "has a key that is restricted to RSASSA-PSS, which is not supported for an authority"
                )
            case ec.EllipticCurvePublicKey():
                problem = key_problem(certificate)
            case other:
                kind = type(other).__name__.removesuffix("PublicKey").lstrip("_")
                problem = f"has a key of the type {kind}; authorities need RSA or ECDSA keys here"
        if problem is not None:
            yield failure(Cause.BAD_CERTIFICATE, f"{case.title(certificate)} {problem}.")


def _constrained_names(case: Case, path: _Path) -> Iterator[Failure]:
    if "name constraint" not in path.library_text:
        return
    for certificate in path.certificates[1:]:
        if _extension(certificate, x509.NameConstraints) is not None:
            text = printable(path.library_text)
            yield failure(
                Cause.BAD_CERTIFICATE,
                f"{case.title(certificate)} constrains the names below it, and the {case.role.noun}'s do not fit: {text}.",
            )


def _old_version(case: Case, path: _Path) -> Iterator[Failure]:
    for certificate in path.certificates:
        if certificate.version is x509.Version.v1:
            text = f"{case.title(certificate)} is an X.509 certificate of version 1; version 3 is needed."
            yield failure(Cause.BAD_CERTIFICATE, text)


_Question = Callable[[Case, _Path], Iterator[Failure]]
_QUESTIONS: Final[tuple[_Question, ...]] = (
    _path_ends,
    _outside_validity,
    _wrong_name,
    _wrong_purpose,
    _cannot_sign,
    _old_version,
    _not_an_authority,
    _unsupported_authority_key,
    _constrained_names,
)


# Words

_USAGE_NAMES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ID_KP_RPC_TLS_CLIENT: "id-kp-rpcTLSClient",
    ID_KP_RPC_TLS_SERVER: "id-kp-rpcTLSServer",
}


def _names(certificate: x509.Certificate) -> str:
    return f"{name_text(certificate.subject)}, issued by {name_text(certificate.issuer)}"


def moment_text(moment: dt.datetime) -> str:
    """Write a time for a sentence."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _usage(usage: ObjectIdentifier) -> str:
    return _USAGE_NAMES.get(usage, usage.dotted_string)


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


def _extension(certificate: x509.Certificate, kind: type[_ExtensionT]) -> _ExtensionT | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
