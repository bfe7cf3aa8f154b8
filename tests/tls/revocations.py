"""Makes revocation lists, ordinary by default as the certificates of `tests.pki` are."""

import datetime as dt
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests import pki
from tests.pki import DAY, NOW, Authority

WHEN = NOW - 3 * DAY


def entry(
    serial: int, reason: x509.ReasonFlags | None = None, extensions: Sequence[pki.Extension] = ()
) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(WHEN)
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.build()


def crl(
    authority: Authority,
    *revoked: int | x509.RevokedCertificate,
    signer: Authority | None = None,
    this_update: dt.datetime = NOW - DAY,
    next_update: dt.datetime = NOW + 7 * DAY,
    omit: Collection[type[x509.ExtensionType]] = (),
    extensions: Sequence[pki.Extension] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.CertificateRevocationList:
    key = (signer or authority).private_key
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.private_key.public_key())
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.subject,
        last_update=this_update,
        next_update=next_update,
        revoked_certificates=[entry(each) if isinstance(each, int) else each for each in revoked],
    )
    defaults: list[pki.Extension] = [(x509.CRLNumber(7), False), (identifier, False)]
    for extension, critical in pki._merged(defaults, omit, extensions):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, algorithm or pki._hash_for(key))  # type: ignore[arg-type]


def pem(*lists: x509.CertificateRevocationList) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in lists)
