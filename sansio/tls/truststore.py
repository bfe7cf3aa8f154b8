"""The trust anchors of a verifier, parsed once and shared by every handshake.

A store is read from PEM: the blocks labelled CERTIFICATE, in any number, with any text around them.  An entry
that can't be parsed is left out and told about in `TrustStore.skipped`: a system's bundle of a hundred authorities
may hold one that a strict parser refuses, and leaving an anchor out can only make the store trust less.  A store
that ends up empty is an error, since it would refuse every peer.

Every certificate in the store is an anchor, whether or not it is self-signed and whether or not it is an
authority: a server's own certificate in the client's store is accepted as it stands, as OpenSSL does.
"""

from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from .certificates import UNREADABLE, printable, quiet
from .pem import pem_blocks

MAX_BUNDLE_BYTES: Final = 4 << 20
"""A distribution's bundle of all public authorities has about 250 kB."""

MAX_SKIPPED: Final = 16
"""How many entries are told about one by one: they go to a log."""

MAX_SUBJECTS_BYTES: Final = 8 << 10
"""CertificateRequest has to fit a handshake message and a peer's patience: about a hundred private authorities."""


class TrustStoreError(Exception):
    """A trust store holds nothing that can be used; the text is a sentence."""


class TrustStore:
    """The certificates in which trust begins.

    Attributes:
        certificates: The anchors, without duplicates, in the order of the file.
        skipped: A sentence for each entry that was left out, at most `MAX_SKIPPED` and one for the rest.
        store: The same certificates, for `cryptography.x509.verification`.
        subjects: The anchors' names as DER, for CertificateRequest's certificate_authorities (RFC 8446, 4.2.4);
            empty if they take more than `MAX_SUBJECTS_BYTES`, since a part of the list would turn away clients of the
            authorities that are missing from it.
    """

    __slots__ = ("_anchors", "_by_subject", "_known", "certificates", "skipped", "store", "subjects")

    def __init__(
        self,
        certificates: Iterable[x509.Certificate],
        *,
        skipped: Iterable[str] = (),
        subjects: Iterable[bytes] | None = None,
    ) -> None:
        """Make a store of parsed certificates.

        Args:
            certificates: The anchors.
            skipped: What was left out, in sentences.
            subjects: The names for CertificateRequest, where the anchors are a part of a larger store only.

        Raises:
            TrustStoreError: There is none.
        """
        self._known = dict.fromkeys(certificates)
        if not self._known:
            raise TrustStoreError("The trust store holds no certificate; it would refuse every peer.")
        self.certificates: Final = tuple(self._known)
        self.skipped: Final = tuple(skipped)
        self.store: Final = Store(list(self.certificates))
        self._anchors: tuple[bytes, ...] = ()
        self._by_subject: dict[bytes, list[x509.Certificate]] = {}
        for certificate in self.certificates:
            self._by_subject.setdefault(certificate.subject.public_bytes(), []).append(certificate)
        fits = sum(len(name) + 2 for name in self._by_subject) <= MAX_SUBJECTS_BYTES
        own = tuple(self._by_subject) if fits else ()
        self.subjects: Final = own if subjects is None else tuple(subjects)

    @classmethod
    def from_pem(cls, data: bytes) -> "TrustStore":
        """Read a bundle of PEM certificates.

        Raises:
            TrustStoreError: It is too big or holds no certificate that can be read.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise TrustStoreError(
                f"The trust store has {len(data)} bytes; at most {MAX_BUNDLE_BYTES} are read."
            )
        certificates: list[x509.Certificate] = []
        skipped: list[str] = []
        for block in pem_blocks(data):
            if block.label != "CERTIFICATE":
                skipped.append(
                    f"The {block.label} at line {block.line} is not a CERTIFICATE and was left out."
                )
                continue
            try:
                certificates.append(_load_pem(block.text))
            except ValueError as error:
                skipped.append(f"The certificate at line {block.line} was left out: {error}")
        if not certificates:
            raise TrustStoreError(_nothing_usable(skipped))
        if len(skipped) > MAX_SKIPPED:
            skipped[MAX_SKIPPED:] = [f"{len(skipped) - MAX_SKIPPED} more entries were left out."]
        return cls(certificates, skipped=skipped)

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return certificate in self._known

    def anchors(self) -> tuple[bytes, ...]:
        """Return the anchors as DER; made once, since a system has over a hundred."""
        if not self._anchors:
            self._anchors = tuple(certificate.public_bytes(Encoding.DER) for certificate in self.certificates)
        return self._anchors

    def named(self, name: x509.Name) -> tuple[x509.Certificate, ...]:
        """Return the anchors whose subject is `name`."""
        return tuple(self._by_subject.get(name.public_bytes(), ()))


def _load_pem(text: bytes) -> x509.Certificate:
    with quiet():
        try:
            certificate = x509.load_pem_x509_certificate(text)
            certificate.subject.public_bytes()  # Parsed late; the index of the store needs it.
        except UNREADABLE as error:
            raise ValueError(printable(str(error))) from None
    return certificate


def _nothing_usable(skipped: list[str]) -> str:
    if not skipped:
        return "The trust store holds no PEM certificate; it has to hold those of the authorities to trust."
    return f"The trust store holds no certificate that can be used. {skipped[0]}"
