"""Reads certificates that strangers made: parsing, the strength of their keys, and text for a log line.

`cryptography` parses a certificate in two steps: its frame at once, names, keys and extensions when they are first
looked at.  Both steps raise a handful of unrelated exceptions, `UNREADABLE`, and some oddities make it warn; the
functions here turn them into one ValueError and keep standard error clean.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

UNREADABLE: Final = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for DER that it can't read, at once or when a field is first looked at."""

MIN_RSA_BITS: Final = 2048
"""Below it an RSA key can be factored by a rich enough attacker (NIST SP 800-131A)."""

MAX_RSA_BITS: Final = 8192
"""The cost of a verification grows with the square of the modulus: 16384 bits are an attack, not a key."""

MAX_RSA_EXPONENT_BITS: Final = 64
"""The cost grows with the exponent too; OpenSSL has the same limit."""

CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
"""The curves that TLS 1.3 has signature schemes for (RFC 8446, 4.2.3), without brainpool."""

MAX_NAMES: Final = 64
"""Subject alternative names that are told about: they go to a log line."""

MAX_KEPT: Final = 128
"""Parsed certificates that are kept, for all peers together.  Nothing but their parsing is spared."""

MAX_KEPT_BYTES: Final = 8 << 10
"""A longer certificate is parsed each time: together with `MAX_KEPT`, a bound on what strangers can have us keep."""

MAX_TEXT: Final = 256
"""Characters of one name: no DNS name is longer."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep a peer, by way of `cryptography`'s warnings about odd names and keys, off our standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_certificate_untrusted(der: bytes) -> x509.Certificate:
    """Parse a certificate and everything in its frame that is parsed late: names, key and extensions.

    What was parsed before, and is not too long to be kept, is there already: a peer comes back with the same one.

    Raises:
        ValueError: It is not a certificate, or a part of it can't be read.
    """
    return _load_kept(der) if len(der) <= MAX_KEPT_BYTES else _load(der)


def _load(der: bytes) -> x509.Certificate:
    with quiet():
        try:
            certificate = x509.load_der_x509_certificate(der)
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
            _ = certificate.issuer.public_bytes()
            _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        except UNREADABLE as error:
            raise ValueError(printable(str(error) or type(error).__name__)) from None
    return certificate


_load_kept: Final = lru_cache(maxsize=MAX_KEPT)(_load)


def key_problem(certificate: x509.Certificate) -> str | None:
    """Tell why a certificate's key is not used, or None if it may be: without any operation on the key."""
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            return _rsa_problem(key)
        case ec.EllipticCurvePublicKey(curve=curve):
            if curve.name in CURVES:
                return None
            return f"has a key on the curve {curve.name}; {', '.join(CURVES)} are accepted"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case other:
            kind = type(other).__name__.removesuffix("PublicKey")
            return f"has a {kind} key; RSA, ECDSA, Ed25519 and Ed448 are accepted"


def _rsa_problem(key: rsa.RSAPublicKey) -> str | None:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return f"has an RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
    exponent_bits = key.public_numbers().e.bit_length()
    if exponent_bits > MAX_RSA_EXPONENT_BITS:
        return f"has an RSA key with an exponent of {exponent_bits} bits; up to {MAX_RSA_EXPONENT_BITS} are accepted"
    return None


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Escape what could break a log line, and cut the text at `limit` characters, with an ellipsis."""
    cut = text[:limit]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return escaped if len(text) <= limit and len(escaped) <= limit else escaped[: limit - 1] + "…"


def name_text(name: x509.Name) -> str:
    """Write a distinguished name as RFC 4514 does, fit for a log line."""
    return printable(name.rfc4514_string()) or "(no name)"


def alternative_names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """Return the subject alternative names of a certificate; none if it has no such extension."""
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def general_name_text(name: x509.GeneralName) -> str:
    """Write a name as `DNS:host`, `IP:192.0.2.1`, `URI:...`, fit for a log line."""
    match name:
        case x509.DirectoryName(value=directory_name):
            text = directory_name.rfc4514_string()
        case x509.RegisteredID(value=oid) | x509.OtherName(type_id=oid):
            text = oid.dotted_string
        case _:
            text = str(name.value)
    return printable(f"{_NAME_PREFIXES.get(type(name), 'other')}:{text}")


_NAME_PREFIXES: Final[dict[type[x509.GeneralName], str]] = {
    x509.DNSName: "DNS",
    x509.IPAddress: "IP",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
    x509.DirectoryName: "DN",
    x509.RegisteredID: "RID",
}
