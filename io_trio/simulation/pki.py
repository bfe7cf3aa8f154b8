"""Certificates for the demo: an authority in memory, and what it signs."""

import datetime as dt
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ktls_agent.sansio.tls.credentials import load_identity
from ktls_agent.sansio.tls.parameters import Identity
from ktls_agent.sansio.tls.truststore import TrustStore

_DAY: Final = dt.timedelta(days=1)


class Issued:
    """A certificate and its key.

    Attributes:
        certificate: The certificate.
        private_key: Its key.
    """

    def __init__(self, certificate: x509.Certificate, private_key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.private_key = private_key

    def certificate_bytes(self, encoding: Encoding) -> bytes:
        """Return the certificate as PEM or DER."""
        return self.certificate.public_bytes(encoding)

    def private_key_bytes(self, encoding: Encoding) -> bytes:
        """Return the key as PEM or DER."""
        return self.private_key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())

    def identity(self) -> Identity:
        """Return what the agent presents."""
        return load_identity(self.certificate_bytes(Encoding.PEM), self.private_key_bytes(Encoding.PEM))


class DemoAuthority:
    """A certification authority.

    Attributes:
        certificate: Its own certificate.
    """

    def __init__(self, name: str, *, now: dt.datetime) -> None:
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        usage = _key_usage(signs_certificates=True)
        self.certificate = self._sign(
            self._name,
            self._key.public_key(),
            (now - _DAY, now + _DAY),
            [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)],
        )

    def trust_store(self) -> TrustStore:
        """Return a store that trusts this authority alone."""
        return TrustStore([self.certificate])

    def issue(self, name: str, *, expired: bool = False) -> Issued:
        """Sign a certificate for a DNS name, for servers and clients; it ended yesterday if `expired`."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = self._now - 10 * _DAY if expired else self._now - _DAY
        end = self._now - _DAY if expired else self._now + _DAY
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
        return Issued(certificate, key)

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
            .serial_number(x509.random_serial_number())
            .not_valid_before(validity[0])
            .not_valid_after(validity[1])
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


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
