"""Certificate revocation lists (RFC 5280, 5), parsed once and asked at each handshake.

    lists = RevocationLists.from_file(data)          # PEM, any number of them, or one in DER
    lists.check_anchors(store)                       # a forged list is an error at the start, not at the first peer
    failed = lists.judge(case, path)                 # for every certificate of a verified path below its anchor

A list is asked about a certificate if it is in the name of its issuer and, where both have key identifiers, of the
issuer's key.  What it says counts if the issuer signed it, its keyUsage (if it has one) allows that, and nothing critical
in the list is unknown.  Then

| the lists of the issuer                       | the certificate                                            |
|-----------------------------------------------|------------------------------------------------------------|
| none                                          | is accepted, as GnuTLS does: not every authority makes one |
| one that counts has its serial                | is refused: revoked                                        |
| one that counts is current, none has it       | is accepted                                                |
| all are out of date, not yet valid, no use    | is refused: a revocation could be missing                  |

Of a delta list (5.2.4) nothing is used, of an indirect one (5.2.5) neither, nor of one for some reasons only.  One for
end entities or for authorities alone is asked about those.  The distribution point's name is not looked at: lists
of one issuer in several parts each count for what they have.

Serials are indexed when a list is loaded: the library's own look-up goes through the whole list, 6 ms for 100,000
entries.  Signatures are checked once for each list and issuer.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ..status import Cause, Failure, failure
from .certificates import UNREADABLE, name_text, printable, quiet
from .diagnosis import Case, moment_text
from .pem import pem_blocks
from .truststore import TrustStore

MAX_LISTS_BYTES: Final = 32 << 20
"""Of one file: the largest lists of public authorities have about 10 MB."""

MAX_REVOKED: Final = 500_000
"""Serials of one file, which take about 100 MB and a second of the start."""

MAX_LISTS: Final = 256
"""Lists of one file: one or two for each authority that is trusted."""

MAX_REMEMBERED: Final = 1024
"""Checked signatures, for each list and issuer; issuers are those of verified paths, so there are few."""

_STRONG_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_KNOWN_EXTENSIONS: Final = (
    x509.AuthorityKeyIdentifier,
    x509.CRLNumber,
    x509.DeltaCRLIndicator,
    x509.FreshestCRL,
    x509.IssuerAlternativeName,
    x509.IssuingDistributionPoint,
)
_KNOWN_OF_ENTRIES: Final = (x509.CRLReason, x509.InvalidityDate)
_TAKEN_BACK: Final = x509.CRLReason(x509.ReasonFlags.remove_from_crl)


class RevocationListError(Exception):
    """A file of revocation lists can't be used; the text is a sentence."""


class RevocationJudge(Protocol):
    """Tells whether a verified path has a revoked certificate in it."""

    def judge(self, case: Case, path: Sequence[x509.Certificate]) -> Failure | None:
        """Judge a path.

        Args:
            case: What is being judged.
            path: From the leaf up to its trust anchor, as it was verified.

        Returns:
            Why the path is refused; None if nothing speaks against it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One list.

    Attributes:
        issuer: The name of its issuer.
        this_update: When it was made.
        next_update: When the next one was to be there; None if it does not say.
        problem: Why what it says does not count, whoever signed it; None if it may.
        key_identifier: Of the issuer's key; None if it does not say.
        of_users: Does it speak of end entities?
        of_authorities: Does it speak of authorities?
        revoked: The entries, by their serial.
    """

    issuer: x509.Name
    this_update: dt.datetime
    next_update: dt.datetime | None
    problem: str | None
    key_identifier: bytes | None
    of_users: bool
    of_authorities: bool
    revoked: Mapping[int, x509.RevokedCertificate] = field(repr=False)
    parsed: x509.CertificateRevocationList = field(repr=False)

    def is_current(self, now: dt.datetime) -> bool:
        """Is it valid already, and not yet out of date?"""
        return self.this_update <= now and (self.next_update is None or now <= self.next_update)

    def trouble_with_time(self, now: dt.datetime) -> str:
        """Say what is wrong with the time of a list that is not current."""
        if now < self.this_update:
            return f"is valid only from {moment_text(self.this_update)}; it is {moment_text(now)} here"
        due = self.this_update if self.next_update is None else self.next_update
        return f"is out of date: the next one was due on {moment_text(due)}; it is {moment_text(now)} here"

    def speaks_of(self, certificate: x509.Certificate) -> bool:
        """Is it asked about a certificate of its issuer?"""
        if self.of_users and self.of_authorities:
            return True
        return self.of_authorities if _is_authority(certificate) else self.of_users

    def may_be_of(self, issuer: x509.Certificate) -> bool:
        """Can it be of this key?  An authority that was made again with another key has the same name."""
        identifier = _extension(issuer, x509.SubjectKeyIdentifier)
        if self.key_identifier is None or identifier is None:
            return True
        return self.key_identifier == identifier.digest

    def problem_with(self, issuer: x509.Certificate) -> str | None:
        """Say why it does not count as the issuer's; None if it does."""
        if self.problem is not None:
            return self.problem
        usage = _extension(issuer, x509.KeyUsage)
        if usage is not None and not usage.crl_sign:
            return "is signed with a key whose keyUsage lacks cRLSign"
        return None if _signed(self.parsed, issuer) else "has a signature that is not its issuer's"


class RevocationLists:
    """The lists of one file; a `RevocationJudge`.

    Attributes:
        lists: In the order of the file.
        skipped: A sentence for each block of the file that was left out.
    """

    __slots__ = ("_by_issuer", "_remembered", "lists", "skipped")

    def __init__(self, lists: Sequence[RevocationList], *, skipped: Sequence[str] = ()) -> None:
        """Make a set of parsed lists."""
        self.lists: Final = tuple(lists)
        self.skipped: Final = tuple(skipped)
        self._by_issuer: dict[bytes, list[RevocationList]] = {}
        for parsed in self.lists:
            self._by_issuer.setdefault(parsed.issuer.public_bytes(), []).append(parsed)
        self._remembered: dict[tuple[int, x509.Certificate], str | None] = {}

    @classmethod
    def from_file(cls, data: bytes) -> "RevocationLists":
        """Read lists: PEM, in any number, or one in DER.

        Raises:
            RevocationListError: There is none, or one of them can't be read.  None is left out: that would revoke less.
        """
        if len(data) > MAX_LISTS_BYTES:
            raise RevocationListError(
                f"The revocation lists have {len(data)} bytes; at most {MAX_LISTS_BYTES} are read."
            )
        with quiet():
            if data[:1] == b"\x30" and data[1:2] >= b"\x80":  # (a text may begin with the digit 0)
                return cls([_parse(x509.load_der_x509_crl, data, "The list")])
            return _from_pem(data)

    def check_anchors(self, store: TrustStore) -> None:
        """Check the signatures of those whose issuers are in a trust store; the others wait for their issuer.

        Raises:
            RevocationListError: A list is in the name of an authority that did not sign it.
        """
        for parsed in self.lists:
            candidates = [anchor for anchor in store.named(parsed.issuer) if parsed.may_be_of(anchor)]
            problems = [self._problem(parsed, anchor) for anchor in candidates]
            if problems and parsed.problem is None and None not in problems:
                raise RevocationListError(
                    f"The revocation list of {name_text(parsed.issuer)} {problems[0]}. Fetch it from the authority again."
                )

    def oddities(self, now: dt.datetime) -> list[str]:
        """Say what is odd about the lists, in sentences.

        Args:
            now: The time, with a time zone.
        """
        sentences = list(self.skipped)
        for parsed in self.lists:
            what = parsed.problem
            if what is None and not parsed.is_current(now):
                what = f"{parsed.trouble_with_time(now)}. Until there is a current one, its certificates are refused"
            if what is not None:
                sentences.append(f"The revocation list of {name_text(parsed.issuer)} {what}.")
        return sentences

    def judge(self, case: Case, path: Sequence[x509.Certificate]) -> Failure | None:
        """Judge a path; see `RevocationJudge`."""
        for certificate, issuer in pairwise(path):
            failed = self._judge(case, certificate, issuer)
            if failed is not None:
                return failed
        return None

    def _judge(self, case: Case, certificate: x509.Certificate, issuer: x509.Certificate) -> Failure | None:
        named = self._by_issuer.get(certificate.issuer.public_bytes(), ())
        asked = [each for each in named if each.speaks_of(certificate) and each.may_be_of(issuer)]
        if not asked:
            return None
        counting = [each for each in asked if self._problem(each, issuer) is None]
        if not counting:
            return _unknown(case, certificate, asked[0], self._problem(asked[0], issuer) or "")
        current = [each for each in counting if each.is_current(case.now)]
        for each in current or counting:
            entry = each.revoked.get(certificate.serial_number)
            if entry is not None:
                return _revoked(case, certificate, entry)
        if current:
            return None
        newest = max(counting, key=lambda each: each.this_update)
        return _unknown(case, certificate, newest, newest.trouble_with_time(case.now))

    def _problem(self, parsed: RevocationList, issuer: x509.Certificate) -> str | None:
        key = (id(parsed), issuer)  # (its place in memory stays its own: `lists` holds it)
        if key not in self._remembered:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = parsed.problem_with(issuer)
        return self._remembered[key]


# Reading


class _Load(Protocol):
    def __call__(self, data: bytes, /) -> x509.CertificateRevocationList: ...


def _from_pem(data: bytes) -> RevocationLists:
    lists: list[RevocationList] = []
    skipped = []
    count = 0
    for block in pem_blocks(data):
        if block.label != "X509 CRL":
            skipped.append(f"The {block.label} at line {block.line} is no X509 CRL and was left out.")
            continue
        if len(lists) == MAX_LISTS:
            raise RevocationListError(f"There are more than {MAX_LISTS} revocation lists in one file.")
        lists.append(_parse(x509.load_pem_x509_crl, block.text, f"The list at line {block.line}"))
        count += len(lists[-1].revoked)
        _check_count(count)
    begun = data.count(b"-----BEGIN X509 CRL-----")
    if begun != len(lists):
        raise RevocationListError(f"{begun - len(lists)} of {begun} revocation lists are cut off.")
    if not lists:
        raise RevocationListError("The file holds no revocation list, in PEM (X509 CRL) or in DER.")
    return RevocationLists(lists, skipped=skipped[:MAX_LISTS])


def _check_count(count: int) -> None:
    if count > MAX_REVOKED:
        raise RevocationListError(f"There are more than {MAX_REVOKED} revoked certificates in one file.")


def _parse(load: _Load, data: bytes, which: str) -> RevocationList:
    try:
        return _read(load(data))
    except UNREADABLE as error:
        raise RevocationListError(f"{which} can't be parsed: {printable(str(error))}.") from None


def _read(parsed: x509.CertificateRevocationList) -> RevocationList:
    _check_count(len(parsed))
    scope = _extension(parsed, x509.IssuingDistributionPoint)
    identifier = _extension(parsed, x509.AuthorityKeyIdentifier)
    only_users = scope is not None and scope.only_contains_user_certs
    only_authorities = scope is not None and scope.only_contains_ca_certs
    only_others = scope is not None and scope.only_contains_attribute_certs
    revoked, entry_problem = _entries(parsed)
    return RevocationList(
        issuer=parsed.issuer,
        this_update=parsed.last_update_utc,
        next_update=parsed.next_update_utc,
        problem=next(_problems(parsed, scope), entry_problem),
        key_identifier=None if identifier is None else identifier.key_identifier,
        of_users=not (only_authorities or only_others),
        of_authorities=not (only_users or only_others),
        revoked=revoked,
        parsed=parsed,
    )


def _problems(
    parsed: x509.CertificateRevocationList, scope: x509.IssuingDistributionPoint | None
) -> Iterator[str]:
    if _extension(parsed, x509.DeltaCRLIndicator) is not None:
        yield "is a delta list, which has the changes only; the complete one is needed"
    if scope is not None and scope.indirect_crl:
        yield "is an indirect list, of certificates of other authorities, which is not supported"
    if scope is not None and scope.only_some_reasons:
        yield "has the revocations for some reasons only; the complete one is needed"
    unknown = [
        item for item in parsed.extensions if item.critical and not isinstance(item.value, _KNOWN_EXTENSIONS)
    ]
    if unknown:
        yield f"has a critical extension that is not known ({unknown[0].oid.dotted_string})"
    algorithm = parsed.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _STRONG_HASHES):
        yield f"is signed with {algorithm.name.upper()}; SHA-256 or better is needed"


def _entries(
    parsed: x509.CertificateRevocationList,
) -> tuple[Mapping[int, x509.RevokedCertificate], str | None]:
    """Index the entries, and say what is wrong with one of them; in one pass, which has to be quick."""
    revoked = {}
    problem = None
    for entry in parsed:
        for item in entry.extensions:
            if item.critical and not isinstance(item.value, _KNOWN_OF_ENTRIES):
                problem = (
                    f"has an entry with a critical extension that is not known ({item.oid.dotted_string})"
                )
            elif item.value == _TAKEN_BACK:
                break  # Such entries belong into delta lists (5.3.1), and revoke nothing.
        else:
            revoked[entry.serial_number] = entry
    return revoked, problem


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    extension = _extension(entry, x509.CRLReason)
    return None if extension is None else extension.reason


# Looking at certificates

_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)
_Extended = x509.Certificate | x509.CertificateRevocationList | x509.RevokedCertificate


def _extension(of: _Extended, kind: type[_ExtensionT]) -> _ExtensionT | None:
    try:
        return of.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _signed(parsed: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return parsed.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except UNREADABLE:
        return False


# Words


def _revoked(case: Case, certificate: x509.Certificate, entry: x509.RevokedCertificate) -> Failure:
    reason = _reason(entry)
    why = "" if reason is None else f" ({reason.value})"
    when = moment_text(entry.revocation_date_utc)
    return failure(
        Cause.CERTIFICATE_REVOKED,
        f"{case.title(certificate)} was revoked by its issuer on {when}{why}; it takes a new one.",
    )


def _unknown(case: Case, certificate: x509.Certificate, asked: RevocationList, what: str) -> Failure:
    return failure(
        Cause.REVOCATION_UNKNOWN,
        f"{case.title(certificate)} may have been revoked: the revocation list of {name_text(asked.issuer)} {what}. "
        "Put the authority's current list into the file of x509.crl, and reload (SIGHUP).",
    )
