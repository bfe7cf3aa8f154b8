"""The tests' own certificate factory makes what its users expect of it."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtensionOID

from tests import pki

TRUSTWORTHY: tuple[pki.KeyType, ...] = ("p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519", "ed448")


@pytest.mark.parametrize("key_type", TRUSTWORTHY)
def test_every_key_type_signs_and_is_certified(key_type: pki.KeyType) -> None:
    root = pki.Authority(f"Root of {key_type}", key_type=key_type)
    issued = root.issue(key_type=key_type)
    issued.certificate.verify_directly_issued_by(root.certificate)
    assert issued.certificate.public_key() == issued.private_key.public_key()


def test_a_chain_holds_the_leaf_and_the_intermediates_without_the_root() -> None:
    root = pki.Authority()
    issuing = root.subordinate("Upper").subordinate("Lower")
    issued = issuing.issue()
    certificates = [x509.load_der_x509_certificate(der) for der in issued.chain]
    assert [c.subject.rfc4514_string() for c in certificates] == ["CN=server.test", "CN=Lower", "CN=Upper"]
    for child, parent in zip(certificates, [*certificates[1:], root.certificate], strict=True):
        child.verify_directly_issued_by(parent)


def test_a_key_is_the_same_for_one_label_and_another_for_another_label() -> None:
    root = pki.Authority()
    assert root.issue().private_key is root.issue().private_key
    assert root.issue().private_key is not root.issue(key_label="other").private_key
    assert root.issue().private_key is not root.private_key


def test_default_extensions_can_be_dropped_and_replaced() -> None:
    root = pki.Authority(omit=[x509.KeyUsage])
    replaced = (x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x80"), True)
    leaf = root.issue(omit=[x509.AuthorityKeyIdentifier], extensions=[replaced]).certificate
    assert b"\x30\x80" in leaf.public_bytes(serialization.Encoding.DER)
    with pytest.raises(ValueError, match="error parsing asn1 value"):
        _ = leaf.extensions
    assert root.certificate.extensions.get_extension_for_class(x509.BasicConstraints).critical
    with pytest.raises(x509.ExtensionNotFound):
        root.certificate.extensions.get_extension_for_class(x509.KeyUsage)


def test_a_key_that_nobody_holds_can_be_certified() -> None:
    huge = rsa.RSAPublicNumbers(65537, (1 << 16383) | 1).public_key()
    leaf = pki.Authority().issue(public_key=huge).certificate
    assert leaf.public_key() == huge


def test_an_rsa_authority_can_sign_with_pss() -> None:
    root = pki.Authority("PSS Root", key_type="rsa2048")
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    leaf = root.issue(signature_padding=pss).certificate
    assert isinstance(leaf.signature_algorithm_parameters, padding.PSS)


def test_identity_carries_the_chain_the_key_and_the_names() -> None:
    issued = pki.Authority().issue(("Server.Test", "b.test"), ips=("192.0.2.1",))
    identity = issued.identity()
    assert identity.names == ("server.test", "b.test")
    assert identity.chain == issued.chain
    assert identity.private_key is issued.private_key


def test_keys_are_serialized_plain_and_encrypted() -> None:
    issued = pki.Authority().issue()
    plain = serialization.load_pem_private_key(issued.private_key_pem(), None)
    encrypted = serialization.load_der_private_key(issued.private_key_der(b"secret"), b"secret")
    assert plain.public_key() == encrypted.public_key() == issued.private_key.public_key()
    assert issued.certificate_pem().count(b"BEGIN CERTIFICATE") == 1
