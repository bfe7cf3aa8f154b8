"""Makes an `Identity` of what an administrator configured: a certificate chain and its private key.

They come as PEM files or, from a keyring, as DER.  What would fail later, in every handshake, fails here once, in a
sentence: an encrypted key, a key of another certificate, a chain whose leaf is not first, a key or curve that TLS 1.3
has no signature scheme for.  No sentence holds a byte of the key.  Validity is left to the peer: there is no clock
here, and a certificate may be renewed while the agent runs.
"""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_pem_private_key,
)

from .certificates import (
    UNREADABLE,
    alternative_names,
    key_problem,
    load_certificate_untrusted,
    name_text,
    quiet,
)
from .diagnosis import MAX_CHAIN_LENGTH
from .parameters import Identity, PrivateKey
from .pem import pem_blocks

MAX_FILE_BYTES: Final = 256 << 10
"""Of one file: ten certificates and a key of 8192 bits have less than 64 kB."""


class CredentialError(Exception):
    """A certificate and key can't be used; the text is a sentence without key material."""


def load_identity(certificate_pem: bytes, private_key_pem: bytes) -> Identity:
    """Load a chain and its key from PEM.

    Args:
        certificate_pem: The leaf first, then its intermediates; other blocks and text are passed over.
        private_key_pem: One unencrypted key (PKCS #8, PKCS #1 or SEC 1); other blocks are passed over, so that it
            may be the same file.

    Raises:
        CredentialError: They can't be used together.
    """
    _check_size("certificate", certificate_pem)
    _check_size("private key", private_key_pem)
    return _identity(_certificates(certificate_pem), _private_key_of_pem(private_key_pem))


def load_identity_der(certificate: bytes, private_key: bytes) -> Identity:
    """Load one certificate and its key from DER, as keys of a keyring hold them.

    Args:
        certificate: The certificate.
        private_key: The key, unencrypted: PKCS #8, PKCS #1 or SEC 1.

    Raises:
        CredentialError: They can't be used together.
    """
    _check_size("certificate", certificate)
    _check_size("private key", private_key)
    try:
        leaf = load_certificate_untrusted(certificate)
    except ValueError as error:
        raise CredentialError(f"The certificate is not DER that can be parsed: {error}.") from None
    return _identity([leaf], _parsed_private_key(private_key, Encoding.DER))


def _check_size(what: str, data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise CredentialError(f"The {what} has {len(data)} bytes; at most {MAX_FILE_BYTES} are read.")


def _certificates(pem: bytes) -> list[x509.Certificate]:
    blocks = [block for block in pem_blocks(pem) if block.label == "CERTIFICATE"]
    if not blocks:
        raise CredentialError("The certificate file holds no PEM certificate.")
    if len(blocks) > MAX_CHAIN_LENGTH:
        raise CredentialError(
            f"The certificate file holds {len(blocks)} certificates; at most {MAX_CHAIN_LENGTH} are presented to a "
            "peer. It has to hold the agent's own certificate and its intermediates, not a bundle of authorities."
        )
    certificates = []
    for block in blocks:
        try:
            parsed = x509.load_pem_x509_certificate(block.text)
            certificates.append(load_certificate_untrusted(parsed.public_bytes(Encoding.DER)))
        except UNREADABLE as error:
            raise CredentialError(
                f"The certificate at line {block.line} of the certificate file can't be parsed: {error}."
            ) from None
    return certificates


def _private_key_of_pem(pem: bytes) -> PrivateKey:
    blocks = [block for block in pem_blocks(pem) if block.label.endswith("PRIVATE KEY")]
    if not blocks:
        raise CredentialError("The private key file holds no PEM private key.")
    if len(blocks) > 1:
        raise CredentialError(
            f"The private key file holds {len(blocks)} private keys; leave only the one of the certificate in it."
        )
    if blocks[0].label == "OPENSSH PRIVATE KEY":
        raise CredentialError(
            "The private key is in OpenSSH's format; convert it with `ssh-keygen -p -m PKCS8 -f FILE`."
        )
    return _parsed_private_key(blocks[0].text, Encoding.PEM)


def _parsed_private_key(data: bytes, encoding: Encoding) -> PrivateKey:
    load = load_pem_private_key if encoding is Encoding.PEM else load_der_private_key
    with quiet():
        try:
            key = load(data, None)
        except TypeError:
            # How the library says that there is a password to give.
            raise CredentialError(
                "The private key is encrypted; nobody is there to type a password, so store it decrypted "
                "(`openssl pkey`), readable by the agent only."
            ) from None
        except UNREADABLE:
            raise CredentialError(
                "The private key can't be parsed; it has to be PKCS #8, PKCS #1 or SEC 1, on a curve with a name."
            ) from None
    if not isinstance(
        key,
        ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey,
    ):
        kind = type(key).__name__.removesuffix("PrivateKey")
        raise CredentialError(f"The private key is of the type {kind}; use RSA, ECDSA, Ed25519 or Ed448.")
    return key


def _identity(certificates: Sequence[x509.Certificate], private_key: PrivateKey) -> Identity:
    leaf = certificates[0]
    problem = key_problem(leaf)
    if problem is not None:
        raise CredentialError(f"The certificate ({name_text(leaf.subject)}) {problem}.")
    _check_belongs(certificates, private_key)
    _check_can_sign(leaf)
    return Identity(
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates),
        private_key=private_key,
        names=tuple(name.value.lower() for name in alternative_names(leaf) if isinstance(name, x509.DNSName)),
    )


def _check_belongs(certificates: Sequence[x509.Certificate], private_key: PrivateKey) -> None:
    public_key = private_key.public_key()
    matches = [position for position, c in enumerate(certificates, 1) if c.public_key() == public_key]
    if matches and matches[0] == 1:
        return
    leaf = name_text(certificates[0].subject)
    if not matches:
        raise CredentialError(f"The private key does not belong to the certificate ({leaf}).")
    owner = name_text(certificates[matches[0] - 1].subject)
    raise CredentialError(
        f"The private key belongs to certificate {matches[0]} of the file ({owner}), not to the first one ({leaf}); "
        "put its certificate first, then the intermediates."
    )


def _check_can_sign(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise CredentialError(
            f"The certificate ({name_text(leaf.subject)}) has a keyUsage without digitalSignature; TLS 1.3 peers refuse "
            "it (RFC 8446, 4.4.2.2)."
        )
