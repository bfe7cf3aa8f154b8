"""What never changes: keys, certificates and entropy, so that a committed input reaches tomorrow what it reached today.

Test-only keys, made from the names of their owners; nobody must ever trust them.  Leaves have Ed25519 keys and
authorities P-256 keys with deterministic ECDSA (`cryptography` lets no Ed25519 authority sign), so that the same
certificates come out in every process.
"""

import datetime as dt
import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tests import pki

from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    ClientParameters,
    ClientPskParameters,
    Identity,
    Parameters,
    PreSharedKey,
    PublicKey,
    ServerParameters,
    ServerPskParameters,
)
from ktls_agent.sansio.tls.truststore import TrustStore
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier

SERVER_NAME: Final = "server.test"


def entropy(count: int) -> bytes:
    """The same bytes whenever so many are asked for."""
    return hashlib.shake_128(b"the same in every run").digest(count)


# Certificates


def leaf_key(owner: str) -> ed25519.Ed25519PrivateKey:
    """The key of an end entity."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(owner.encode()).digest())


def authority_key(owner: str) -> ec.EllipticCurvePrivateKey:
    """The key of an authority."""
    number = int.from_bytes(hashlib.sha256(owner.encode()).digest()) >> 1  # below the order of P-256
    return ec.derive_private_key(number, ec.SECP256R1())


def certificate(
    subject: str, key: PublicKey, *, issuer: str, extensions: list[tuple[x509.ExtensionType, bool]]
) -> bytes:
    """A certificate for `subject`, signed by the authority `issuer`, as DER."""
    signer = authority_key(issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.common_name(subject))
        .issuer_name(pki.common_name(issuer))
        .public_key(key)
        .serial_number(int.from_bytes(hashlib.sha256(f"{subject} by {issuer}".encode()).digest()[:8]) | 1)
        .not_valid_before(pki.NOW - dt.timedelta(days=30))
        .not_valid_after(pki.NOW + dt.timedelta(days=365))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    identifiers = (
        x509.SubjectKeyIdentifier.from_public_key(key),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
    )
    for identifier in identifiers:
        builder = builder.add_extension(identifier, critical=False)
    signed = builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)


def _authority(name: str, *, issuer: str) -> bytes:
    return certificate(
        name,
        authority_key(name).public_key(),
        issuer=issuer,
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (pki.key_usage("key_cert_sign", "crl_sign"), True),
        ],
    )


def _leaf(name: str, *, issuer: str) -> bytes:
    return certificate(
        name,
        leaf_key(name).public_key(),
        issuer=issuer,
        extensions=[
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (pki.key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([pki.SERVER_AUTH, pki.CLIENT_AUTH]), False),
            (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
        ],
    )


ROOT_NAME: Final = "Fuzz Root"
INTERMEDIATE_NAME: Final = "Fuzz Intermediate"
ROOT: Final = _authority(ROOT_NAME, issuer=ROOT_NAME)
INTERMEDIATE: Final = _authority(INTERMEDIATE_NAME, issuer=ROOT_NAME)
LEAF: Final = _leaf(SERVER_NAME, issuer=ROOT_NAME)
DEEP_LEAF: Final = _leaf(SERVER_NAME, issuer=INTERMEDIATE_NAME)
STORE: Final = TrustStore([x509.load_der_x509_certificate(ROOT)])

SERVER: Final = Identity(chain=(LEAF,), private_key=leaf_key(SERVER_NAME), names=(SERVER_NAME,))
CLIENT: Final = Identity(
    chain=(_leaf("client.test", issuer=INTERMEDIATE_NAME), INTERMEDIATE), private_key=leaf_key("client.test")
)


def server_verifier() -> ServerCertificateVerifier:
    """What a client judges servers with."""
    return ServerCertificateVerifier(STORE, name=SERVER_NAME, now=pki.NOW)


def client_verifier() -> ClientCertificateVerifier:
    """What a server judges clients with."""
    return ClientCertificateVerifier(STORE, now=pki.NOW)


# Engines

KEYS: Final = (
    PreSharedKey(identity=b"NVMe0R01 host subsystem", secret=bytes(32), hash_name="sha256"),
    PreSharedKey(identity=b"NVMe0R02 host subsystem", secret=bytes(48), hash_name="sha384"),
)
_PARAMETERS: Final[dict[str, Parameters]] = {
    "client": ClientParameters(verifier=server_verifier(), server_name=SERVER_NAME, identity=CLIENT),
    "server": ServerParameters(identities=(SERVER,), verifier=client_verifier()),
    "psk_client": ClientPskParameters(keys=KEYS, allow_psk_ke=True),
    "psk_server": ServerPskParameters(allow_psk_ke=True),
}
ROLES: Final = tuple(_PARAMETERS)


def engine(role: str) -> TlsEngine:
    """A started engine of one of `ROLES`."""
    made = TlsEngine(_PARAMETERS[role], entropy=entropy)
    made.start()
    return made
