"""Certificates for tests: an authority in memory, what it signs, and who trusts it.

    authority = Authority("Test CA")
    ServerParameters(identities=(authority.issue("server.test").identity(),))
    ClientParameters(verifier=authority.server_verifier("server.test"), server_name="server.test")

The keys are made of seeded entropy, so they are the same in each run and no secret; `now` is a moment of the test's, not
of a clock's.
"""

import datetime as dt
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..tls.credentials import load_identity
from ..tls.parameters import Entropy, Identity
from ..tls.truststore import TrustStore
from ..tls.verify import ClientCertificateVerifier, ServerCertificateVerifier
from .entropy import SeededEntropy

NOW: Final = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
"""The time of tests that name no other."""

_DAY: Final = dt.timedelta(days=1)
_SCALAR_LENGTH: Final = 31  # One byte less than the order of P-256 has, so that every value is below it.
_SERIAL_LENGTH: Final = 19  # RFC 5280, 4.1.2.2: 20 bytes at most, and positive.


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key.

    Attributes:
        certificate: The certificate.
        private_key: Its key.
    """

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    def certificate_bytes(self, encoding: Encoding) -> bytes:
        """Return the certificate as PEM or DER."""
        return self.certificate.public_bytes(encoding)

    def private_key_bytes(self, encoding: Encoding) -> bytes:
        """Return the key as PEM or DER."""
        return self.private_key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())

    def identity(self) -> Identity:
        """Return what an engine presents."""
        return load_identity(self.certificate_bytes(Encoding.PEM), self.private_key_bytes(Encoding.PEM))


class Authority:
    """A certification authority.

    Attributes:
        now: The time for which it issues and verifies.
        certificate: Its own certificate.
    """

    def __init__(
        self, name: str = "Test CA", *, now: dt.datetime = NOW, entropy: Entropy | None = None
    ) -> None:
        """Make an authority and its certificate.

        Args:
            name: Its common name; authorities of different names have different keys.
            now: Certificates are valid from a day before to a day after.
            entropy: For keys and serial numbers, if they are not to be the same in each run.
        """
        self.now: Final = now
        self._entropy = entropy or SeededEntropy(name.encode())
        self._key = self._make_key()
        self._name = _common_name(name)
        usage = _key_usage(signs_certificates=True)
        self.certificate: Final = self._sign(
            self._name,
            self._key.public_key(),
            (now - _DAY, now + _DAY),
            [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)],
        )

    def trust_store(self) -> TrustStore:
        """Return a store that trusts this authority alone."""
        return TrustStore([self.certificate])

    def server_verifier(self, name: str) -> ServerCertificateVerifier:
        """Return what judges servers of that name for a client that trusts this authority."""
        return ServerCertificateVerifier(self.trust_store(), name=name, now=self.now)

    def client_verifier(self) -> ClientCertificateVerifier:
        """Return what judges clients for a server that trusts this authority."""
        return ClientCertificateVerifier(self.trust_store(), now=self.now)

    def issue(self, name: str, *, expired: bool = False) -> Issued:
        """Sign a certificate for a DNS name, for servers and clients; it ended yesterday if `expired`."""
        key = self._make_key()
        start = self.now - 10 * _DAY if expired else self.now - _DAY
        end = self.now - _DAY if expired else self.now + _DAY
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self._sign(
            _common_name(name),
            key.public_key(),
            (start, end),
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_key_usage(signs_certificates=False), True),
                (usages, False),
                (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
            ],
        )
        return Issued(certificate=certificate, private_key=key)

    def _make_key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(self._entropy(_SCALAR_LENGTH)) + 1, ec.SECP256R1())

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        validity: tuple[dt.datetime, dt.datetime],
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(int.from_bytes(self._entropy(_SERIAL_LENGTH)) + 1)
            .not_valid_before(validity[0])
            .not_valid_after(validity[1])
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
