"""A certificate factory in memory, for every test that needs a PKI.

    root = Authority("Test Root")
    server = root.subordinate("Test Issuing").issue(("server.test",), ips=("192.0.2.1",))
    server.chain, server.private_key, server.certificate_pem(), server.identity()

What it makes is ordinary by default (RFC 5280: AKI, SKI, basicConstraints, keyUsage, and serverAuth beside
clientAuth on a leaf), so that a test states only what is odd about its case: `omit` drops default extensions by
type, `extensions` replaces them or adds others, with the criticality that the test chooses.  Malformed ones are
`x509.UnrecognizedExtension(oid, garbage)`.

Keys are made once for each (type, label): RSA keys are slow to make.  The label of a key is the name of its
first owner, so two certificates for one name share a key unless `key_label` says otherwise.  Validity is
relative to `NOW`, the time of all tests; nothing here reads the clock.
"""

import datetime as dt
import functools
import ipaddress
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from ktls_agent.sansio.tls.parameters import Identity, PrivateKey, PublicKey

NOW: Final = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
DAY: Final = dt.timedelta(days=1)

SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH
CODE_SIGNING: Final = ExtendedKeyUsageOID.CODE_SIGNING
ANY_EKU: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
RPC_TLS_CLIENT: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.33")  # RFC 9289, 8: id-kp-rpcTLSClient
RPC_TLS_SERVER: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.34")  # RFC 9289, 8: id-kp-rpcTLSServer

KeyType = Literal[
    "p256",
    "p384",
    "p521",
    "rsa2048",
    "rsa3072",
    "ed25519",
    "ed448",
    "rsa1024",
    "brainpoolP256r1",
    "secp256k1",
]
Extension = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""

_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "p256": ec.SECP256R1,
    "p384": ec.SECP384R1,
    "p521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
    "brainpoolP256r1": ec.BrainpoolP256R1,
}
_serial_numbers: Final[Iterator[int]] = itertools.count(1)


@functools.cache
def private_key(key_type: KeyType = "p256", label: str = "") -> PrivateKey:
    """Return the private key of that type and label; the same one in every call."""
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if key_type == "ed448":
        return ed448.Ed448PrivateKey.generate()
    if key_type.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(key_type[3:]))
    return ec.generate_private_key(_CURVES[key_type]())


def key_usage(*bits: str) -> x509.KeyUsage:
    """Make a keyUsage extension with the named bits set, such as "digital_signature"."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def common_name(text: str) -> x509.Name:
    """Make the name `CN=text`."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An end-entity certificate, its chain and its key.

    Attributes:
        chain: DER certificates: the leaf, then its intermediates; no trust anchor.
        private_key: The leaf's key.
    """

    chain: tuple[bytes, ...]
    private_key: PrivateKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf, parsed."""
        return x509.load_der_x509_certificate(self.chain[0])

    def identity(self) -> Identity:
        """Return what the engine takes, with the leaf's DNS names."""
        san = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return Identity(
            chain=self.chain,
            private_key=self.private_key,
            names=tuple(name.lower() for name in san.get_values_for_type(x509.DNSName)),
        )

    def certificate_pem(self) -> bytes:
        """Return the whole chain, the leaf first, as PEM."""
        return b"".join(
            x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in self.chain
        )

    def private_key_pem(
        self,
        password: bytes | None = None,
        key_format: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    ) -> bytes:
        """Return the key as PEM, encrypted if there is a password."""
        return self._private_bytes(serialization.Encoding.PEM, key_format, password)

    def private_key_der(
        self,
        password: bytes | None = None,
        key_format: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    ) -> bytes:
        """Return the key as DER, encrypted if there is a password."""
        return self._private_bytes(serialization.Encoding.DER, key_format, password)

    def _private_bytes(
        self,
        encoding: serialization.Encoding,
        key_format: serialization.PrivateFormat,
        password: bytes | None,
    ) -> bytes:
        encryption = (
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        )
        return self.private_key.private_bytes(encoding, key_format, encryption)


class Authority:
    """A certification authority: a root, or with `subordinate` one below another.

    Attributes:
        certificate: Its certificate.
        private_key: Its key.
        intermediates: DER certificates from this authority up to, but without, its root.
    """

    def __init__(
        self,
        name: str = "Test Root",
        *,
        key_type: KeyType = "p256",
        key_label: str | None = None,
        subject: x509.Name | None = None,
        not_before: dt.datetime = NOW - 365 * DAY,
        not_after: dt.datetime = NOW + 3650 * DAY,
        path_length: int | None = None,
        omit: Collection[type[x509.ExtensionType]] = (),
        extensions: Sequence[Extension] = (),
        signature_hash: hashes.HashAlgorithm | None = None,
        issuer: "Authority | None" = None,
    ) -> None:
        """Make the authority; without `issuer` it signs itself."""
        self.private_key = private_key(key_type, name if key_label is None else key_label)
        self.subject = common_name(name) if subject is None else subject
        signer = self if issuer is None else issuer
        defaults: list[Extension] = [
            (x509.BasicConstraints(ca=True, path_length=path_length), True),
            (key_usage("key_cert_sign", "crl_sign"), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.private_key.public_key()), False),
        ]
        if issuer is not None:
            defaults.append((_authority_key_identifier(signer.private_key), False))
        self.certificate = _sign(
            signer,
            subject=self.subject,
            public_key=self.private_key.public_key(),
            validity=(not_before, not_after),
            extensions=_merged(defaults, omit, extensions),
            signature_hash=signature_hash,
        )
        self.intermediates: tuple[bytes, ...] = () if issuer is None else (self.der(), *issuer.intermediates)

    def der(self) -> bytes:
        """Return this authority's certificate as DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def pem(self) -> bytes:
        """Return this authority's certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def subordinate(
        self,
        name: str = "Test Intermediate",
        *,
        key_type: KeyType = "p256",
        key_label: str | None = None,
        subject: x509.Name | None = None,
        not_before: dt.datetime = NOW - 365 * DAY,
        not_after: dt.datetime = NOW + 3650 * DAY,
        path_length: int | None = None,
        omit: Collection[type[x509.ExtensionType]] = (),
        extensions: Sequence[Extension] = (),
        signature_hash: hashes.HashAlgorithm | None = None,
    ) -> "Authority":
        """Make an authority whose certificate this one signs; arguments as for `Authority`."""
        return Authority(
            name,
            key_type=key_type,
            key_label=key_label,
            subject=subject,
            not_before=not_before,
            not_after=not_after,
            path_length=path_length,
            omit=omit,
            extensions=extensions,
            signature_hash=signature_hash,
            issuer=self,
        )

    def issue(
        self,
        names: Sequence[str] = ("server.test",),
        *,
        ips: Sequence[str] = (),
        subject: x509.Name | None = None,
        key_type: KeyType = "p256",
        key_label: str | None = None,
        public_key: PublicKey | None = None,
        not_before: dt.datetime = NOW - 30 * DAY,
        not_after: dt.datetime = NOW + 365 * DAY,
        eku: Sequence[ObjectIdentifier] = (SERVER_AUTH, CLIENT_AUTH),
        omit: Collection[type[x509.ExtensionType]] = (),
        extensions: Sequence[Extension] = (),
        signature_hash: hashes.HashAlgorithm | None = None,
        signature_padding: padding.PSS | None = None,
    ) -> Issued:
        """Issue an end-entity certificate.

        Args:
            names: DNS names for subjectAltName; the first is also the common name.
            ips: Addresses for subjectAltName.
            subject: Instead of `CN=` the first name.
            key_type: Of the leaf's key.
            key_label: Instead of the first name; see the module's docstring.
            public_key: Put this key into the certificate; the private key then does not belong to it.
            not_before: Start of validity.
            not_after: End of validity.
            eku: Extended key usages; empty omits the extension.
            omit: Types of default extensions to leave out.
            extensions: To add, or to put in the place of default ones.
            signature_hash: Instead of the one that fits the authority's key.
            signature_padding: PSS instead of PKCS #1 v1.5, for an authority with an RSA key.
        """
        label = key_label if key_label is not None else (*names, *ips, "nameless")[0]
        key = private_key(key_type, label)
        leaf_public_key = public_key if public_key is not None else key.public_key()
        general_names: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        general_names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ips]
        defaults: list[Extension] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage("digital_signature"), True),
            (x509.SubjectKeyIdentifier.from_public_key(leaf_public_key), False),
            (_authority_key_identifier(self.private_key), False),
        ]
        if general_names:
            defaults.append((x509.SubjectAlternativeName(general_names), False))
        if eku:
            defaults.append((x509.ExtendedKeyUsage(eku), False))
        certificate = _sign(
            self,
            subject=common_name((*names, *ips, "nameless")[0][:64]) if subject is None else subject,
            public_key=leaf_public_key,
            validity=(not_before, not_after),
            extensions=_merged(defaults, omit, extensions),
            signature_hash=signature_hash,
            signature_padding=signature_padding,
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Issued(chain=(der, *self.intermediates), private_key=key)


def _authority_key_identifier(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _merged(
    defaults: Sequence[Extension],
    omit: Collection[type[x509.ExtensionType]],
    extensions: Sequence[Extension],
) -> list[Extension]:
    dropped = {kind.oid for kind in omit} | {extension.oid for extension, _ in extensions}
    return [default for default in defaults if default[0].oid not in dropped] + list(extensions)


def _sign(
    signer: Authority,
    *,
    subject: x509.Name,
    public_key: PublicKey,
    validity: tuple[dt.datetime, dt.datetime],
    extensions: Sequence[Extension],
    signature_hash: hashes.HashAlgorithm | None,
    signature_padding: padding.PSS | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject)
        .public_key(public_key)
        .serial_number(next(_serial_numbers))
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    algorithm = signature_hash or _hash_for(signer.private_key)
    return builder.sign(signer.private_key, algorithm, rsa_padding=signature_padding)  # type: ignore[arg-type]


def _hash_for(key: PrivateKey) -> hashes.HashAlgorithm | None:
    match key:
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey() if key.curve.key_size > 384:
            return hashes.SHA512()
        case ec.EllipticCurvePrivateKey() if key.curve.key_size > 256:
            return hashes.SHA384()
        case _:
            return hashes.SHA256()
