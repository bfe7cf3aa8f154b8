"""What makes an identity, and the sentence for everything that does not."""

from collections.abc import Callable
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.tls import credentials
from ktls_agent.sansio.tls.certificates import quiet
from ktls_agent.sansio.tls.credentials import CredentialError, load_identity, load_identity_der
from ktls_agent.sansio.tls.parameters import Identity, PublicKey, Signer
from tests import pki
from tests.pki import Authority, Issued

KEY_TYPES: tuple[pki.KeyType, ...] = ("p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519", "ed448")
TRADITIONAL: tuple[pki.KeyType, ...] = ("p256", "p384", "p521", "rsa2048")


@cache
def issued() -> Issued:
    return Authority().subordinate().issue(["Server.Test", "b.test", "*.c.test"], ips=["192.0.2.1"])


def key_pem() -> bytes:
    return issued().private_key_pem()


def public_key_of(identity: Identity) -> PublicKey:
    assert not isinstance(identity.private_key, Signer)
    return identity.private_key.public_key()


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_loads_every_key_type_from_pem_and_der(key_type: pki.KeyType) -> None:
    made = Authority().issue(key_type=key_type)
    from_pem = load_identity(made.certificate_pem(), made.private_key_pem())
    from_der = load_identity_der(made.chain[0], made.private_key_der())
    for identity in (from_pem, from_der):
        assert identity.chain == made.chain
        assert identity.names == ("server.test",)
        assert public_key_of(identity) == made.private_key.public_key()


@pytest.mark.parametrize("key_type", TRADITIONAL)
def test_loads_keys_in_the_traditional_format(key_type: pki.KeyType) -> None:
    made = Authority().issue(key_type=key_type)
    form = PrivateFormat.TraditionalOpenSSL
    load_identity(made.certificate_pem(), made.private_key_pem(key_format=form))
    load_identity_der(made.chain[0], made.private_key_der(key_format=form))


def test_keeps_the_chain_in_its_order_and_the_dns_names_in_lower_case() -> None:
    identity = load_identity(issued().certificate_pem(), key_pem())
    assert identity.chain == issued().chain
    assert identity.names == ("server.test", "b.test", "*.c.test")


def test_one_file_may_hold_everything_and_comments_too() -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    both = b"Subject: server\n" + parameters + key_pem() + b"\n# chain\n" + issued().certificate_pem()
    identity = load_identity(both, both)
    assert identity.chain == issued().chain
    assert public_key_of(identity) == issued().private_key.public_key()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_line_ends_of_other_systems_are_read(line_end: bytes) -> None:
    load_identity(issued().certificate_pem().replace(b"\n", line_end), key_pem().replace(b"\n", line_end))


def test_a_certificate_without_names_has_none() -> None:
    made = Authority().issue(omit=[x509.SubjectAlternativeName, x509.KeyUsage])
    assert load_identity(made.certificate_pem(), made.private_key_pem()).names == ()


def test_the_key_is_not_shown() -> None:
    identity = load_identity(issued().certificate_pem(), key_pem())
    assert "private_key" not in repr(identity)


def _block(label: str, content: str = "MIIB") -> bytes:
    return f"-----BEGIN {label}-----\n{content}\n-----END {label}-----\n".encode()


def _pem_of(key: dsa.DSAPrivateKey | x25519.X25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _openssh() -> bytes:
    return issued().private_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _brainpool() -> tuple[bytes, bytes]:
    made = Authority().issue(key_type="brainpoolP256r1")
    return made.certificate_pem(), made.private_key_pem()


def _cannot_sign() -> tuple[bytes, bytes]:
    made = Authority().issue(extensions=[(pki.key_usage("key_agreement"), True)])
    return made.certificate_pem(), made.private_key_pem()


def _weak() -> tuple[bytes, bytes]:
    made = Authority().issue(key_type="rsa1024")
    return made.certificate_pem(), made.private_key_pem()


def _odd_extension() -> tuple[bytes, bytes]:
    odd = (x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x80"), False)
    made = Authority().issue(extensions=[odd])
    return made.certificate_pem(), made.private_key_pem()


def _root_first() -> tuple[bytes, bytes]:
    authority = Authority()
    made = authority.issue()
    return authority.pem() + made.certificate_pem(), made.private_key_pem()


REFUSED: dict[str, tuple[Callable[[], tuple[bytes, bytes]], list[str]]] = {
    "no certificate": (lambda: (b"", key_pem()), ["certificate file holds no PEM certificate"]),
    "a key in the place of the certificate": (
        lambda: (key_pem(), key_pem()),
        ["certificate file holds no PEM certificate"],
    ),
    "no key": (
        lambda: (issued().certificate_pem(), issued().certificate_pem()),
        ["private key file holds no PEM private key"],
    ),
    "a broken certificate": (
        lambda: (issued().certificate_pem() + b"\n" + _block("CERTIFICATE"), key_pem()),
        ["The certificate at line ", "can't be parsed"],
    ),
    "a certificate with a broken extension": (_odd_extension, ["at line 1 ", "can't be parsed"]),
    "a broken key": (
        lambda: (issued().certificate_pem(), _block("PRIVATE KEY")),
        ["private key can't be parsed; it has to be PKCS #8"],
    ),
    "an encrypted key": (
        lambda: (issued().certificate_pem(), issued().private_key_pem(b"hunter2")),
        ["private key is encrypted"],
    ),
    "an encrypted key in the traditional format": (
        lambda: (
            issued().certificate_pem(),
            issued().private_key_pem(b"hunter2", PrivateFormat.TraditionalOpenSSL),
        ),
        ["private key is encrypted"],
    ),
    "a key in OpenSSH's format": (
        lambda: (issued().certificate_pem(), _openssh()),
        ["ssh-keygen -p -m PKCS8"],
    ),
    "two keys": (
        lambda: (issued().certificate_pem(), key_pem() * 2),
        ["holds 2 private keys"],
    ),
    "a key of another certificate": (
        lambda: (issued().certificate_pem(), Authority().issue(key_label="another").private_key_pem()),
        ["does not belong to the certificate (CN=Server.Test)"],
    ),
    "a key of another type": (
        lambda: (issued().certificate_pem(), Authority().issue(key_type="ed25519").private_key_pem()),
        ["does not belong to the certificate (CN=Server.Test)"],
    ),
    "the leaf not first": (
        _root_first,
        ["belongs to certificate 2 of the file (CN=server.test)", "not to the first one (CN=Test Root)"],
    ),
    "a bundle of authorities": (
        lambda: (Authority().pem() * 11, key_pem()),
        ["holds 11 certificates; at most 10", "not a bundle of authorities"],
    ),
    "a key on a brainpool curve": (_brainpool, ["curve brainpoolP256r1; secp256r1"]),
    "a weak key": (_weak, ["an RSA key of 1024 bits"]),
    "a certificate that may not sign": (_cannot_sign, ["keyUsage without digitalSignature"]),
    "a DSA key": (
        lambda: (issued().certificate_pem(), _pem_of(dsa.generate_private_key(2048))),
        ["of the type DSA; use RSA"],
    ),
    "an X25519 key": (
        lambda: (issued().certificate_pem(), _pem_of(x25519.X25519PrivateKey.generate())),
        ["of the type X25519; use RSA"],
    ),
    "a huge certificate file": (
        lambda: (b"x" * (credentials.MAX_FILE_BYTES + 1), key_pem()),
        ["The certificate has 262145 bytes; at most 262144"],
    ),
    "a huge key file": (
        lambda: (issued().certificate_pem(), b"x" * (credentials.MAX_FILE_BYTES + 1)),
        ["The private key has 262145 bytes"],
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(case: tuple[Callable[[], tuple[bytes, bytes]], list[str]]) -> None:
    make, said = case
    certificate, key = make()
    with pytest.raises(CredentialError) as caught:
        load_identity(certificate, key)
    sentence = str(caught.value)
    for fragment in said:
        assert fragment in sentence
    assert sentence.endswith((".", ")."))
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (lambda: b"", lambda: issued().private_key_der(), "is not DER that can be parsed"),
        (lambda: issued().chain[0] + b"\0", lambda: issued().private_key_der(), "is not DER that can be parsed"),
        (lambda: issued().certificate_pem(), lambda: issued().private_key_der(), "is not DER that can be parsed"),
        (lambda: issued().chain[0], lambda: b"", "private key can't be parsed"),
        (lambda: issued().chain[0], key_pem, "private key can't be parsed"),
        (lambda: issued().chain[0], lambda: issued().private_key_der(b"secret"), "is encrypted"),
        (lambda: issued().chain[1], lambda: issued().private_key_der(), "does not belong to"),
        (lambda: b"x" * 300_000, lambda: b"", "The certificate has 300000 bytes"),
        (lambda: issued().chain[0], lambda: b"x" * 300_000, "The private key has 300000 bytes"),
    ],
)  # fmt: skip
def test_refuses_der(certificate: Callable[[], bytes], key: Callable[[], bytes], said: str) -> None:
    with pytest.raises(CredentialError) as caught:
        load_identity_der(certificate(), key())
    assert said in str(caught.value)


def test_no_sentence_holds_key_material() -> None:
    other = Authority().issue(key_label="another", key_type="rsa2048")
    assert isinstance(other.private_key, rsa.RSAPrivateKey)
    pem = other.private_key_pem()
    with pytest.raises(CredentialError) as caught:
        load_identity(issued().certificate_pem(), pem)
    assert str(other.private_key.private_numbers().d) not in str(caught.value)
    with pytest.raises(CredentialError) as caught:
        load_identity(issued().certificate_pem(), pem[:200] + b"\n-----END PRIVATE KEY-----\n")
    assert pem[100:120].decode() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_is_a_sentence_and_nothing_else(certificate: bytes, key: bytes) -> None:
    for load in (load_identity, load_identity_der):
        with pytest.raises(CredentialError):
            load(certificate, key)


@settings(max_examples=1000)
@given(st.integers(0, 2000), st.integers(1, 255), st.booleans())
def test_a_flipped_byte_is_a_sentence_or_the_same_key(position: int, mask: int, in_key: bool) -> None:
    certificate, key = bytearray(issued().chain[0]), bytearray(issued().private_key_der())
    target = key if in_key else certificate
    target[position % len(target)] ^= mask
    try:
        identity = load_identity_der(bytes(certificate), bytes(key))
    except CredentialError:
        return
    assert identity.chain == (bytes(certificate),)
    with quiet():
        leaf = x509.load_der_x509_certificate(identity.chain[0])
    assert isinstance(identity.private_key, ec.EllipticCurvePrivateKey)
    leaf_key = leaf.public_key()
    assert isinstance(leaf_key, ec.EllipticCurvePublicKey)
    leaf_key.verify(identity.private_key.sign(b"x", ec.ECDSA(SHA256())), b"x", ec.ECDSA(SHA256()))


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=3))
def test_a_pem_file_with_a_changed_part_is_a_sentence_or_an_identity(position: int, change: bytes) -> None:
    pem = bytearray(issued().certificate_pem())
    at = position % len(pem)
    pem[at : at + len(change)] = change
    try:
        identity = load_identity(bytes(pem), key_pem())
    except CredentialError:
        return
    assert public_key_of(identity) == issued().private_key.public_key()


def test_a_key_file_of_another_encoding_is_no_traceback() -> None:
    spki = issued().private_key.public_key().public_bytes(
        Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    with pytest.raises(CredentialError, match="holds no PEM private key"):
        load_identity(issued().certificate_pem(), spki)
