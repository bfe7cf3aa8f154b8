"""Which chains are accepted, and what is said about each one that is not."""

import datetime as dt
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.status import OUTCOMES, Alert, Cause, Failure
from ktls_agent.sansio.tls import certificates, diagnosis, truststore, verify
from ktls_agent.sansio.tls.parameters import CertificateRejected, PeerCertificate, PeerVerifier
from ktls_agent.sansio.tls.pem import pem_blocks
from ktls_agent.sansio.tls.verify import (
    ClientCertificateVerifier,
    ServerCertificateVerifier,
    TrustStore,
    TrustStoreError,
)
from tests import pki
from tests.pki import DAY, NOW, Authority, Issued, key_usage

Chain = tuple[bytes, ...]


@cache
def root() -> Authority:
    return Authority()


def as_server(
    chain: Chain, *, store: TrustStore | None = None, name: str = "server.test", now: dt.datetime = NOW
) -> PeerCertificate:
    verifier = ServerCertificateVerifier(store or TrustStore([root().certificate]), name=name, now=now)
    peer, leaf = verifier.verify_untrusted(chain)
    assert leaf.public_bytes(Encoding.DER) == chain[0]
    return peer


def as_client(chain: Chain, *, store: TrustStore | None = None, now: dt.datetime = NOW) -> PeerCertificate:
    verifier = ClientCertificateVerifier(store or TrustStore([root().certificate]), now=now)
    peer, leaf = verifier.verify_untrusted(chain)
    assert leaf.public_bytes(Encoding.DER) == chain[0]
    return peer


def trust(*authorities: Authority) -> TrustStore:
    return TrustStore([authority.certificate for authority in authorities])


def san(*names: str, critical: bool = False) -> pki.Extension:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical


def malformed(oid: x509.ObjectIdentifier, content: bytes = b"\x30\x05\x01") -> pki.Extension:
    return x509.UnrecognizedExtension(oid, content), False


EASY_RSA_AKI: pki.Extension = (
    x509.AuthorityKeyIdentifier(b"k" * 20, [x509.DirectoryName(pki.common_name("Test Root"))], 7),
    False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A chain and the store that judges it."""

    chain: Chain
    store: TrustStore
    name: str = "server.test"


def below_root(issued: Issued, name: str = "server.test") -> Presented:
    return Presented(chain=issued.chain, store=trust(root()), name=name)


def own_root(authority: Authority, **arguments: object) -> Presented:
    issued = authority.issue(**arguments)  # type: ignore[arg-type]
    return Presented(chain=issued.chain, store=trust(authority))


def self_signed(authority: Authority, *, trusted: bool = True) -> Presented:
    return Presented(chain=(authority.der(),), store=trust(authority if trusted else root()))


def extra(*extensions: pki.Extension) -> Callable[[], Presented]:
    return lambda: below_root(root().issue(extensions=extensions))


def _pinned(leaf: Issued) -> Presented:
    return Presented(chain=leaf.chain, store=TrustStore([leaf.certificate]))


def _below_anchor(anchor: Authority) -> Presented:
    return Presented(chain=anchor.issue().chain[:1], store=trust(anchor))


def _shuffled(chain: Chain) -> Chain:
    return (chain[0], *reversed(chain[1:]))


ACCEPTED_FROM_BOTH: dict[str, Callable[[], Presented]] = {
    "an ordinary leaf below the root": lambda: below_root(root().issue()),
    "one intermediate": lambda: below_root(root().subordinate().issue()),
    "three intermediates": lambda: below_root(
        root().subordinate("A").subordinate("B").subordinate("C").issue()
    ),
    "intermediates in the wrong order": lambda: Presented(
        chain=_shuffled(root().subordinate("A").subordinate("B").issue().chain), store=trust(root())
    ),
    "the root presented too": lambda: Presented(
        chain=(*root().issue().chain, root().der()), store=trust(root())
    ),
    "an unrelated certificate in between": lambda: Presented(
        chain=(*root().issue().chain, Authority("Stray").der()), store=trust(root())
    ),
    "an intermediate as trust anchor": lambda: _below_anchor(root().subordinate("Anchor")),
    "the second of two anchors of one name": lambda: Presented(
        chain=root().issue().chain, store=trust(Authority(key_label="older key"), root())
    ),
    "a leaf without authorityKeyIdentifier": lambda: below_root(
        root().issue(omit=[x509.AuthorityKeyIdentifier])
    ),
    "a leaf with only a name": lambda: below_root(
        root().issue(
            eku=(),
            omit=[
                x509.AuthorityKeyIdentifier,
                x509.SubjectKeyIdentifier,
                x509.KeyUsage,
                x509.BasicConstraints,
            ],
        )
    ),
    "an authority without keyUsage": lambda: own_root(Authority("NoKU", omit=[x509.KeyUsage])),
    "an authority without identifiers": lambda: own_root(
        Authority("NoSKI", omit=[x509.SubjectKeyIdentifier])
    ),
    "an intermediate whose identifier names issuer and serial": lambda: below_root(
        root().subordinate("EasyRSA", extensions=[EASY_RSA_AKI]).issue()
    ),
    "basicConstraints of an authority that is not critical": lambda: own_root(
        Authority("NCBC", extensions=[(x509.BasicConstraints(ca=True, path_length=None), False)])
    ),
    "a path length that is kept": lambda: below_root(
        root().subordinate("P1", path_length=1).subordinate("P0", path_length=0).issue()
    ),
    "a name constraint that is kept": lambda: below_root(
        root()
        .subordinate("NC", extensions=[(x509.NameConstraints([x509.DNSName("test")], None), True)])
        .issue()
    ),
    "no extended key usage": lambda: below_root(root().issue(eku=())),
    "anyExtendedKeyUsage": lambda: below_root(root().issue(eku=[pki.ANY_EKU])),
    "both RPC usages of RFC 9289": lambda: below_root(
        root().issue(eku=[pki.RPC_TLS_CLIENT, pki.RPC_TLS_SERVER])
    ),
    "a wanted usage beside another": lambda: below_root(
        root().issue(eku=[pki.CODE_SIGNING, pki.SERVER_AUTH, pki.CLIENT_AUTH])
    ),
    "a critical extended key usage": lambda: below_root(
        root().issue(extensions=[(x509.ExtendedKeyUsage([pki.SERVER_AUTH, pki.CLIENT_AUTH]), True)])
    ),
    "an intermediate limited to TLS": lambda: below_root(
        root()
        .subordinate("TLS", extensions=[(x509.ExtendedKeyUsage([pki.SERVER_AUTH, pki.CLIENT_AUTH]), False)])
        .issue()
    ),
    "an intermediate limited to RPC with TLS": lambda: below_root(
        root()
        .subordinate(
            "RPC", extensions=[(x509.ExtendedKeyUsage([pki.RPC_TLS_SERVER, pki.RPC_TLS_CLIENT]), False)]
        )
        .issue()
    ),
    "a pinned leaf": lambda: _pinned(Authority("Gone").issue()),
    "a pinned self-signed authority as leaf, as openssl req -x509 makes it": lambda: self_signed(
        Authority("Self", omit=[x509.KeyUsage], extensions=[san("server.test")])
    ),
    "a pinned self-signed leaf with Ed25519": lambda: self_signed(
        Authority("Self", key_type="ed25519", omit=[x509.KeyUsage], extensions=[san("server.test")])
    ),
    "a leaf that may sign certificates too": lambda: below_root(
        root().issue(extensions=[(key_usage("digital_signature", "key_cert_sign"), True)])
    ),
    "an RSA authority that signs with PSS": lambda: own_root(
        Authority("PSS", key_type="rsa2048"),
        signature_padding=padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32),
    ),
    "the longest chain": lambda: below_root(
        _nested(root(), verify.MAX_CHAIN_LENGTH - 1).issue(),
    ),
}


def _nested(authority: Authority, levels: int) -> Authority:
    for level in range(levels):
        authority = authority.subordinate(f"Level {level}")
    return authority


@pytest.mark.parametrize("case", ACCEPTED_FROM_BOTH.values(), ids=ACCEPTED_FROM_BOTH.keys())
def test_accepts_from_servers_and_clients(case: Callable[[], Presented]) -> None:
    presented = case()
    assert as_server(presented.chain, store=presented.store).chain == presented.chain
    assert as_client(presented.chain, store=presented.store).chain == presented.chain


@pytest.mark.parametrize("leaf", ["p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519", "ed448"])
@pytest.mark.parametrize("authority", ["p256", "p384", "p521", "rsa2048"])
def test_accepts_every_key_type(leaf: pki.KeyType, authority: pki.KeyType) -> None:
    presented = own_root(Authority(f"Root {authority}", key_type=authority), key_type=leaf)
    as_server(presented.chain, store=presented.store)
    as_client(presented.chain, store=presented.store)


@pytest.mark.parametrize(
    ("name", "names", "ips"),
    [
        ("server.test", ["SERVER.test"], []),
        ("Server.Test", ["server.test"], []),
        ("server.test.", ["server.test"], []),
        ("host", ["host"], []),
        ("a.server.test", ["*.server.test"], []),
        ("second.test", ["first.test", "second.test"], []),
        ("xn--bcher-kva.test", ["xn--bcher-kva.test"], []),
        ("192.0.2.1", ["server.test"], ["192.0.2.1"]),
        ("2001:db8::1", [], ["2001:db8::1"]),
        ("2001:0DB8:0:0::1", [], ["2001:db8::1"]),
        ("fe80::1%eth0", [], ["fe80::1"]),
    ],
)
def test_a_server_is_known_by_its_subject_alternative_name(
    name: str, names: list[str], ips: list[str]
) -> None:
    as_server(root().issue(names, ips=ips).chain, name=name)


@pytest.mark.parametrize(
    ("name", "names", "ips", "said"),
    [
        ("other.test", ["server.test"], [], ["is for DNS:server.test, not for DNS:other.test"]),
        ("server.test", ["other.test", "b.test"], ["192.0.2.1"], ["is for DNS:other.test, DNS:b.test, IP:192.0.2.1"]),
        ("a.b.server.test", ["*.server.test"], [], ["DNS:*.server.test"]),
        ("server.test", ["*.server.test"], [], ["DNS:*.server.test"]),
        ("aserver.test", ["*server.test"], [], ["DNS:*server.test"]),
        ("192.0.2.2", [], ["192.0.2.1"], ["IP:192.0.2.1, not for IP:192.0.2.2"]),
        ("192.0.2.1", ["192.0.2.1"], [], ["DNS:192.0.2.1, not for IP:192.0.2.1"]),
        ("server.test", [f"n{i}.test" for i in range(11)], [], ["n7.test and 3 more, not for"]),
        ("under_score.test", ["under_score.test"], [], ['"under_score.test"', "neither an IP address nor"]),
        ("b\u00fccher.test", ["server.test"], [], ["xn-- form"]),
        ("", ["server.test"], [], ["neither an IP address nor"]),
        ("a\nb", ["server.test"], [], ['"a\\nb"']),
        ("*.test", ["*.test"], [], ["neither an IP address nor"]),
        ("." * 5000, ["server.test"], [], ["…"]),
    ],
)  # fmt: skip
def test_refuses_a_server_of_another_name(
    name: str, names: list[str], ips: list[str], said: list[str]
) -> None:
    issued = root().issue(names, ips=ips, subject=pki.common_name("server.test"))
    refuse(lambda: as_server(issued.chain, name=name), Cause.NAME_MISMATCH, Alert.BAD_CERTIFICATE, said)


def test_a_name_in_the_subject_only_does_not_count() -> None:
    issued = root().issue(omit=[x509.SubjectAlternativeName])
    said = ["has no subjectAltName", "DNS:server.test has to be put there"]
    refuse(lambda: as_server(issued.chain), Cause.NAME_MISMATCH, Alert.BAD_CERTIFICATE, said)


@pytest.mark.parametrize(
    "issue",
    [
        lambda: root().issue(["any.test"]),
        lambda: root().issue((), eku=[pki.CLIENT_AUTH]),
        lambda: root().issue((), eku=[pki.RPC_TLS_CLIENT]),
        lambda: root().issue(extensions=[san("server.test", critical=True)]),
        lambda: (
            root().subordinate("C", extensions=[(x509.ExtendedKeyUsage([pki.CLIENT_AUTH]), False)]).issue(())
        ),
    ],
)
def test_accepts_a_client_of_any_name_or_none(issue: Callable[[], Issued]) -> None:
    as_client(issue().chain)


@pytest.mark.parametrize("eku", [[pki.SERVER_AUTH], [pki.RPC_TLS_SERVER]])
def test_accepts_a_server_with_one_usage(eku: list[x509.ObjectIdentifier]) -> None:
    as_server(root().issue(eku=eku).chain)


def refuse(attempt: Callable[[], object], cause: Cause, alert: Alert | None, said: list[str]) -> str:
    with pytest.raises(CertificateRejected) as caught:
        attempt()
    failure = caught.value.failure
    assert (failure.cause, failure.alert) == (cause, alert), failure.reason
    for fragment in said:
        assert fragment in failure.reason
    assert failure.reason.isprintable()
    assert len(failure.reason) <= diagnosis.MAX_REASON
    assert str(caught.value) == failure.reason
    return failure.reason


def _huge_rsa(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | 1).public_key()


def _with_bad_signature(issued: Issued) -> Chain:
    leaf = bytearray(issued.chain[0])
    leaf[-1] ^= 1
    return (bytes(leaf), *issued.chain[1:])


def _version_1(der: bytes) -> bytes:
    """Take the version out of a certificate; that breaks its signature, at which nobody looks in an anchor."""
    tbs = der.index(b"\xa0\x03\x02\x01\x02")
    shorter = der[:tbs] + der[tbs + 5 :]
    outer, inner = int.from_bytes(shorter[2:4], "big") - 5, int.from_bytes(shorter[6:8], "big") - 5
    return shorter[:2] + outer.to_bytes(2, "big") + shorter[4:6] + inner.to_bytes(2, "big") + shorter[8:]


def _signed_with(authority: Authority, algorithm: int) -> Presented:
    """Replace sha256WithRSAEncryption (1.2.840.113549.1.1.11): the library does not sign with SHA-1."""
    der = authority.issue().chain[0]
    prefix = bytes.fromhex("2a864886f70d0101")
    assert der.count(prefix + b"\x0b") == 2
    changed = der.replace(prefix + b"\x0b", prefix + bytes([algorithm]))
    return Presented(chain=(changed,), store=trust(authority))


def _below_version_1(old: Authority) -> Presented:
    anchor = x509.load_der_x509_certificate(_version_1(old.der()))
    return Presented(chain=old.issue().chain, store=TrustStore([anchor]))


def _with_its_root(stranger: Authority) -> Presented:
    return Presented(chain=(*stranger.issue().chain, stranger.der()), store=trust(root()))


def _circle() -> Presented:
    x, y = Authority("X"), Authority("Y")
    x_by_y, y_by_x = y.subordinate("X"), x.subordinate("Y")
    chain = (x.issue().chain[0], x_by_y.der(), y_by_x.der())
    return Presented(chain=chain, store=trust(root()))


REFUSED_FROM_BOTH: dict[str, tuple[Callable[[], Presented], Cause, list[str]]] = {
    "nothing": (
        lambda: Presented(chain=(), store=trust(root())),
        Cause.NO_PEER_CERTIFICATE,
        ["presented no certificate"],
    ),
    "garbage": (
        lambda: Presented(chain=(b"garbage",), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["Certificate 1 of 1", "can't be parsed"],
    ),
    "garbage above a good leaf": (
        lambda: Presented(chain=(*root().issue().chain, b""), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["Certificate 2 of 2", "can't be parsed"],
    ),
    "bytes after the leaf": (
        lambda: Presented(chain=(root().issue().chain[0] + b"\0",), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["can't be parsed"],
    ),
    "a malformed extension": (
        extra(malformed(ExtensionOID.KEY_USAGE)),
        Cause.BAD_CERTIFICATE,
        ["Certificate 1 of 1", "can't be parsed"],
    ),
    "too many certificates": (
        lambda: Presented(chain=root().issue().chain * (verify.MAX_CHAIN_LENGTH + 1), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["presented 11 certificates", "at most 10"],
    ),
    "too many bytes": (
        lambda: Presented(chain=(b"\x30" * (verify.MAX_CHAIN_BYTES + 1),), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["65537 bytes", "65536 bytes together"],
    ),
    "an unknown authority": (
        lambda: below_root(Authority("Stranger").issue()),
        Cause.UNKNOWN_CA,
        [
            "issued by CN=Stranger, which is neither in the trust store nor presented",
            "trust store, or let the",
        ],
    ),
    "an unknown authority above an intermediate": (
        lambda: below_root(Authority("Stranger").subordinate("Middle").issue()),
        Cause.UNKNOWN_CA,
        ["The intermediate certificate (CN=Middle", "issued by CN=Stranger, which is neither"],
    ),
    "a missing intermediate": (
        lambda: Presented(chain=root().subordinate().issue().chain[:1], store=trust(root())),
        Cause.UNKNOWN_CA,
        ["CN=Test Intermediate, which is neither", "present its intermediate certificates"],
    ),
    "an unknown root, presented": (
        lambda: _with_its_root(Authority("Stranger")),
        Cause.UNKNOWN_CA,
        ["CN=Stranger", "is self-signed and is not in the trust store"],
    ),
    "an unknown self-signed leaf": (
        lambda: self_signed(Authority("Self", extensions=[san("server.test")]), trusted=False),
        Cause.UNKNOWN_CA,
        ["CN=Self", "is self-signed and is not in the trust store"],
    ),
    "an authority of the same name with another key": (
        lambda: below_root(Authority(key_label="another").issue()),
        Cause.UNKNOWN_CA,
        ["does not match the key of CN=Test Root in the trust store", "made again with another key"],
    ),
    "a changed signature": (
        lambda: Presented(chain=_with_bad_signature(root().issue()), store=trust(root())),
        Cause.UNKNOWN_CA,
        ["does not match the key of CN=Test Root in the trust store"],
    ),
    "a changed signature below an intermediate": (
        lambda: Presented(chain=_with_bad_signature(root().subordinate().issue()), store=trust(root())),
        Cause.BAD_CERTIFICATE,
        ["does not match the key of CN=Test Intermediate, which was presented"],
    ),
    "two intermediates that vouch for each other": (
        _circle,
        Cause.UNKNOWN_CA,
        ["neither in the trust store nor presented"],
    ),
    "an expired leaf": (
        lambda: below_root(root().issue(not_after=NOW - DAY)),
        Cause.CERTIFICATE_EXPIRED,
        [
            "certificate (CN=server.test, issued by CN=Test Root) expired on 2026-05-31 12:00 UTC",
            "12:00 UTC here",
        ],
    ),
    "a leaf of tomorrow": (
        lambda: below_root(root().issue(not_before=NOW + DAY)),
        Cause.CERTIFICATE_EXPIRED,
        ["is not valid before 2026-06-02 12:00 UTC"],
    ),
    "an expired intermediate": (
        lambda: below_root(root().subordinate(not_after=NOW - DAY).issue()),
        Cause.CERTIFICATE_EXPIRED,
        ["The intermediate certificate (CN=Test Intermediate, issued by CN=Test Root) expired on"],
    ),
    "an expired root": (
        lambda: own_root(Authority("Old", not_after=NOW - DAY)),
        Cause.CERTIFICATE_EXPIRED,
        ["The certificate in the trust store (CN=Old", "expired on"],
    ),
    "an expired pinned leaf": (
        lambda: _pinned(root().issue(not_after=NOW - DAY)),
        Cause.CERTIFICATE_EXPIRED,
        ["expired on"],
    ),
    "a leaf for something else": (
        lambda: below_root(root().issue(eku=[pki.CODE_SIGNING, x509.ObjectIdentifier("1.2.3.4")])),
        Cause.WRONG_PURPOSE,
        ["has the extended key usage codeSigning, 1.2.3.4 only", "needs"],
    ),
    "an intermediate for something else": (
        lambda: below_root(
            root()
            .subordinate("Code", extensions=[(x509.ExtendedKeyUsage([pki.CODE_SIGNING]), False)])
            .issue()
        ),
        Cause.WRONG_PURPOSE,
        ["The intermediate certificate (CN=Code", "codeSigning only"],
    ),
    "a leaf that may not sign": (
        lambda: below_root(root().issue(extensions=[(key_usage("key_encipherment"), True)])),
        Cause.WRONG_PURPOSE,
        ["keyUsage without digitalSignature"],
    ),
    "a leaf as an authority": (
        lambda: below_root(
            root()
            .subordinate("Leaf", extensions=[(x509.BasicConstraints(ca=False, path_length=None), True)])
            .issue()
        ),
        Cause.BAD_CERTIFICATE,
        ["The intermediate certificate (CN=Leaf", "basicConstraints do not say so"],
    ),
    "an authority without basicConstraints": (
        lambda: own_root(Authority("NoBC", omit=[x509.BasicConstraints])),
        Cause.BAD_CERTIFICATE,
        ["The certificate in the trust store (CN=NoBC", "basicConstraints do not say so"],
    ),
    "an authority that may not sign certificates": (
        lambda: own_root(Authority("NoSign", extensions=[(key_usage("crl_sign"), True)])),
        Cause.BAD_CERTIFICATE,
        ["keyUsage lacks keyCertSign"],
    ),
    "a path that is longer than allowed": (
        lambda: below_root(root().subordinate("P0", path_length=0).subordinate("Below").issue()),
        Cause.BAD_CERTIFICATE,
        ["(CN=P0", "allows 0 authorities below it (pathLen); there are 1"],
    ),
    "a name that the authority may not give": (
        lambda: below_root(
            root()
            .subordinate("NC", extensions=[(x509.NameConstraints([x509.DNSName("example")], None), True)])
            .issue()
        ),
        Cause.BAD_CERTIFICATE,
        ["(CN=NC", "constrains the names below it", "no permitted name constraints matched"],
    ),
    "a name that a root's constraints exclude": (
        lambda: own_root(
            Authority("NX", extensions=[(x509.NameConstraints(None, [x509.DNSName("server.test")]), True)])
        ),
        Cause.BAD_CERTIFICATE,
        ["The certificate in the trust store (CN=NX", "excluded name constraint"],
    ),
    "an authority with Ed25519": (
        lambda: own_root(Authority("Ed", key_type="ed25519")),
        Cause.BAD_CERTIFICATE,
        ["(CN=Ed, issued by CN=Ed) has a key of the type Ed25519; authorities need RSA or ECDSA keys"],
    ),
    "an intermediate with Ed448": (
        lambda: below_root(root().subordinate("Ed448", key_type="ed448").issue()),
        Cause.BAD_CERTIFICATE,
        ["The intermediate certificate (CN=Ed448", "type Ed448"],
    ),
    "a root with a weak RSA key": (
        lambda: own_root(Authority("Weak", key_type="rsa1024")),
        Cause.BAD_CERTIFICATE,
        ["The certificate in the trust store (CN=Weak", "an RSA key of 1024 bits"],
    ),
    "an unknown critical extension": (
        extra((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), True)),
        Cause.BAD_CERTIFICATE,
        ["certificate (CN=server.test, issued by CN=Test Root) was refused", "1.2.3.4"],
    ),
    "name constraints in a leaf": (
        extra((x509.NameConstraints([x509.DNSName("test")], None), True)),
        Cause.BAD_CERTIFICATE,
        ["was refused"],
    ),
    "a root of version 1": (
        lambda: _below_version_1(Authority("Old", key_type="rsa2048", omit=_ALL_EXTENSIONS)),
        Cause.BAD_CERTIFICATE,
        ["(CN=Old, issued by CN=Old) is an X.509 certificate of version 1; version 3 is needed"],
    ),
    "RSA with 16384 bits": (
        lambda: below_root(root().issue(public_key=_huge_rsa(16384))),
        Cause.BAD_CERTIFICATE,
        ["has an RSA key of 16384 bits; 2048 to 8192 are accepted"],
    ),
    "an intermediate with RSA of 16384 bits": (
        lambda: Presented(
            chain=(*root().issue().chain, *root().issue(["ca"], public_key=_huge_rsa(16384)).chain),
            store=trust(root()),
        ),
        Cause.BAD_CERTIFICATE,
        ["Certificate 2 of 2", "(CN=ca)", "16384 bits"],
    ),
    "RSA with a huge exponent": (
        lambda: below_root(root().issue(public_key=_huge_rsa(2048, (1 << 1024) | 1))),
        Cause.BAD_CERTIFICATE,
        ["an exponent of 1025 bits; up to 64"],
    ),
    "a weak RSA key": (
        lambda: below_root(root().issue(key_type="rsa1024")),
        Cause.BAD_CERTIFICATE,
        ["RSA key of 1024 bits"],
    ),
    "a brainpool key": (
        lambda: below_root(root().issue(key_type="brainpoolP256r1")),
        Cause.BAD_CERTIFICATE,
        ["a key on the curve brainpoolP256r1; secp256r1, secp384r1, secp521r1 are accepted"],
    ),
    "a bitcoin key": (
        lambda: below_root(root().issue(key_type="secp256k1")),
        Cause.BAD_CERTIFICATE,
        ["a key on the curve secp256k1"],
    ),
    "a SHA-1 signature": (
        lambda: _signed_with(Authority("RSA", key_type="rsa2048"), 5),
        Cause.BAD_CERTIFICATE,
        ["is signed with SHA1; SHA-256 or better"],
    ),
    "a signature of an unknown kind": (
        lambda: _signed_with(Authority("RSA", key_type="rsa2048"), 99),
        Cause.BAD_CERTIFICATE,
        ["not supported (1.2.840.113549.1.1.99)"],
    ),
}

_ALL_EXTENSIONS: list[type[x509.ExtensionType]] = [
    x509.AuthorityKeyIdentifier,
    x509.SubjectKeyIdentifier,
    x509.KeyUsage,
    x509.BasicConstraints,
    x509.SubjectAlternativeName,
]


@pytest.mark.parametrize("case", REFUSED_FROM_BOTH.values(), ids=REFUSED_FROM_BOTH.keys())
def test_refuses_from_servers_and_clients(
    case: tuple[Callable[[], Presented], Cause, list[str]],
) -> None:
    make, cause, said = case
    presented = make()
    alert = OUTCOMES[cause].alert
    refuse(lambda: as_server(presented.chain, store=presented.store), cause, alert, said)
    refuse(lambda: as_client(presented.chain, store=presented.store), cause, alert, said)


@pytest.mark.parametrize(
    ("judge", "eku", "said"),
    [
        (as_server, pki.CLIENT_AUTH, "clientAuth only; a server needs serverAuth or id-kp-rpcTLSServer"),
        (as_server, pki.RPC_TLS_CLIENT, "id-kp-rpcTLSClient only; a server needs"),
        (as_client, pki.SERVER_AUTH, "serverAuth only; a client needs clientAuth or id-kp-rpcTLSClient"),
        (as_client, pki.RPC_TLS_SERVER, "id-kp-rpcTLSServer only; a client needs"),
    ],
)
def test_refuses_the_other_role(
    judge: Callable[[Chain], PeerCertificate], eku: x509.ObjectIdentifier, said: str
) -> None:
    issued = root().issue(eku=[eku])
    refuse(lambda: judge(issued.chain), Cause.WRONG_PURPOSE, Alert.UNSUPPORTED_CERTIFICATE, [said])
    upper = root().subordinate(extensions=[(x509.ExtendedKeyUsage([eku]), False)])
    refuse(lambda: judge(upper.issue().chain), Cause.WRONG_PURPOSE, Alert.UNSUPPORTED_CERTIFICATE, [said])


def test_a_server_name_that_is_critical_beside_a_subject_is_refused_with_the_libraries_words() -> None:
    chain = root().issue(extensions=[san("server.test", critical=True)]).chain
    refuse(lambda: as_server(chain), Cause.BAD_CERTIFICATE, Alert.BAD_CERTIFICATE, ["MUST NOT be critical"])


def test_everything_that_is_wrong_is_told_and_the_first_gives_the_cause() -> None:
    chain = Authority("Stranger").issue(["other.test"], not_after=NOW - DAY, eku=[pki.CODE_SIGNING]).chain
    said = ["issued by CN=Stranger", "Also: ", "expired on", "not for DNS:server.test", "codeSigning only"]
    refuse(lambda: as_server(chain), Cause.UNKNOWN_CA, Alert.UNKNOWN_CA, said)


@pytest.mark.parametrize("second", [0, 1])
def test_the_last_second_of_validity_counts(second: int) -> None:
    chain = root().issue(not_after=NOW).chain
    now = NOW + dt.timedelta(seconds=second)
    if second == 0:
        as_server(chain, now=now)
    else:
        refuse(lambda: as_server(chain, now=now), Cause.CERTIFICATE_EXPIRED, Alert.CERTIFICATE_EXPIRED, [])


def test_time_of_another_zone_is_the_same_time() -> None:
    chain = root().issue(not_after=NOW).chain
    as_client(chain, now=NOW.astimezone(dt.timezone(dt.timedelta(hours=9))))


@pytest.mark.parametrize("make", [ServerCertificateVerifier, ClientCertificateVerifier])
def test_time_without_a_zone_is_an_error_of_the_caller(make: Callable[..., PeerVerifier]) -> None:
    arguments = {"name": "server.test"} if make is ServerCertificateVerifier else {}
    with pytest.raises(ValueError, match="time zone"):
        make(trust(root()), now=NOW.replace(tzinfo=None), **arguments)


def test_text_that_could_break_a_log_line_is_escaped() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "evil\n\x1b[31m\u202e"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o" * 64),
        ]
    )
    issued = root().issue(extensions=[san("evil\r\nname.test")], subject=subject)
    said = [r"evil\n\x1b[31m\u202e", r"DNS:evil\r\nname.test, not for DNS:server.test"]
    refuse(lambda: as_server(issued.chain), Cause.NAME_MISMATCH, Alert.BAD_CERTIFICATE, said)


def test_the_reason_is_bounded_whatever_the_names() -> None:
    many = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 64)] * 64)
    stranger = Authority("Stranger", subject=many)
    names = tuple(f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{i}.test" for i in range(100))
    chain = stranger.issue(names, subject=many, not_after=NOW - DAY).chain
    reason = refuse(lambda: as_server(chain), Cause.UNKNOWN_CA, Alert.UNKNOWN_CA, ["…"])
    assert len(reason) <= diagnosis.MAX_REASON


def test_tells_the_facts_about_the_peer() -> None:
    names: list[x509.GeneralName] = [
        x509.DNSName("server.test"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.UniformResourceIdentifier("spiffe://test/nfs\x00"),
        x509.RFC822Name("root@server.test"),
        x509.DirectoryName(pki.common_name("dir,ectory")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.4"), b"\x05\x00"),
    ]
    chain = root().issue(extensions=[(x509.SubjectAlternativeName(names), False)]).chain
    peer = as_server(chain)
    assert peer == as_client(chain)
    assert peer.names == (
        "DNS:server.test",
        "IP:192.0.2.1",
        "IP:2001:db8::1",
        r"URI:spiffe://test/nfs\x00",
        "email:root@server.test",
        r"DN:CN=dir\,ectory",
        "RID:1.2.3",
        "other:1.2.4",
    )
    assert (peer.subject, peer.issuer, peer.chain) == ("CN=server.test", "CN=Test Root", chain)
    assert peer.not_after == NOW + 365 * DAY


def test_the_facts_are_bounded() -> None:
    names = [f"n{i}.test" for i in range(certificates.MAX_NAMES + 5)] + ["x"]
    assert len(as_client(root().issue(names).chain).names) == certificates.MAX_NAMES
    long = root().issue(extensions=[(x509.SubjectAlternativeName([x509.DNSName("x" * 5000)]), False)])
    (name,) = as_client(long.chain).names
    assert len(name) == certificates.MAX_TEXT
    assert name.endswith("…")
    anonymous = root().issue(subject=x509.Name([]))
    assert as_client(anonymous.chain).subject == "(no name)"


def test_text_whose_escapes_make_it_long_is_cut() -> None:
    assert certificates.printable("\0" * 200) == ("\\x00" * 64)[:255] + "…"
    assert certificates.printable("ab", 2) == "ab"
    assert certificates.printable("\ud800") == "\\ud800"


def test_keys_of_other_kinds_are_refused_before_use() -> None:
    key = dsa.generate_private_key(2048).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.common_name("dsa"))
        .issuer_name(root().subject)
        .serial_number(1)
        .public_key(key)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    der = builder.sign(root().private_key, hashes.SHA256()).public_bytes(Encoding.DER)
    refuse(
        lambda: as_client((der,)),
        Cause.BAD_CERTIFICATE,
        Alert.BAD_CERTIFICATE,
        ["has a DSA key; RSA, ECDSA, Ed25519 and Ed448 are accepted"],
    )


def test_an_authority_restricted_to_pss_is_refused_with_its_reason() -> None:
    rsa_oid, pss_oid = (bytes.fromhex(f"300d06092a864886f70d0101{last}0500") for last in ("01", "0a"))
    authority = Authority("PSS only", key_type="rsa2048")
    der = authority.der()
    assert der.count(rsa_oid) == 1
    # Parameters of RSASSA-PSS are a SEQUENCE or absent: absent ones make the encoding two bytes shorter.
    spki = der.index(rsa_oid) - 4
    store = TrustStore([x509.load_der_x509_certificate(_pss_spki(der, spki, pss_oid))])
    chain = authority.issue().chain
    said = ["(CN=PSS only", "restricted to RSASSA-PSS"]
    refuse(lambda: as_client(chain, store=store), Cause.BAD_CERTIFICATE, Alert.BAD_CERTIFICATE, said)


def _pss_spki(der: bytes, spki: int, pss_oid: bytes) -> bytes:
    def longer(data: bytes, at: int, by: int) -> bytes:
        return (
            data[: at + 2]
            + (int.from_bytes(data[at + 2 : at + 4], "big") + by).to_bytes(2, "big")
            + data[at + 4 :]
        )

    changed = der[: spki + 4] + b"\x30\x0b" + pss_oid[2:-2] + der[spki + 4 + len(pss_oid) :]
    for at in (0, 4, spki):
        changed = longer(changed, at, -2)
    return changed


# Hostile input


@cache
def _bases() -> list[Chain]:
    constrained = root().subordinate(
        "NC", extensions=[(x509.NameConstraints([x509.DNSName("test")], None), True)]
    )
    return [
        root().issue(ips=["192.0.2.1"]).chain,
        constrained.issue(eku=[pki.RPC_TLS_SERVER, pki.RPC_TLS_CLIENT]).chain,
        Authority("Stranger").subordinate().issue(["other.test"]).chain,
        root().issue(key_type="rsa2048").chain,
        root().issue(key_type="ed25519").chain,
    ]


mutations = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 255), st.sampled_from(["set", "insert", "delete"])),
    min_size=1,
    max_size=4,
)


def _mutated(der: bytes, changes: list[tuple[int, int, str]]) -> bytes:
    data = bytearray(der)
    for position, value, kind in changes:
        at = position % len(data)
        if kind == "set":
            data[at] = value
        elif kind == "insert":
            data.insert(at, value)
        else:
            del data[at]
    return bytes(data)


def _verdict(attempt: Callable[[], PeerCertificate]) -> PeerCertificate | Failure:
    try:
        return attempt()
    except CertificateRejected as rejected:
        return rejected.failure


def _only_a_verdict(chain: Chain) -> list[PeerCertificate]:
    accepted = []
    for verdict in (_verdict(lambda: as_server(chain)), _verdict(lambda: as_client(chain))):
        if isinstance(verdict, Failure):
            assert verdict.alert is not None
            assert verdict.reason.isprintable()
            assert len(verdict.reason) <= diagnosis.MAX_REASON
        else:
            assert verdict.chain == chain
            assert all(name.isprintable() for name in (verdict.subject, verdict.issuer, *verdict.names))
            accepted.append(verdict)
    return accepted


@settings(max_examples=800, deadline=None)
@given(st.integers(0, 4), st.integers(0, 2), mutations)
def test_a_changed_certificate_gets_a_verdict_and_a_changed_leaf_is_refused(
    base: int, which: int, changes: list[tuple[int, int, str]]
) -> None:
    original = _bases()[base]
    chain = list(original)
    at = which % len(chain)
    chain[at] = _mutated(chain[at], changes)
    accepted = _only_a_verdict(tuple(chain))
    if chain[0] != original[0]:
        assert not accepted


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), mutations)
def test_a_changed_certificate_that_is_trusted_gets_a_verdict(
    base: int, changes: list[tuple[int, int, str]]
) -> None:
    """A pinned leaf gets past the signature, so that everything in it is looked at."""
    der = _mutated(_bases()[base][0], changes)
    try:
        store = TrustStore([certificates.load_certificate_untrusted(der)])
    except ValueError:
        return
    for verdict in (
        _verdict(lambda: as_server((der,), store=store)),
        _verdict(lambda: as_client((der,), store=store)),
    ):
        assert not isinstance(verdict, Failure) or verdict.reason.isprintable()


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_garbage_gets_a_verdict_and_nothing_else(chain: list[bytes]) -> None:
    _only_a_verdict(tuple(chain))


@pytest.mark.parametrize(
    "oid",
    [
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x80", b"\x04\x82\xff\xff", b"\xff" * 40])
def test_a_malformed_extension_of_an_anchor_harms_nobody(oid: x509.ObjectIdentifier, content: bytes) -> None:
    """Anchors are parsed by `TrustStore` without a look at their extensions: the search meets them here."""
    odd = Authority("Odd", extensions=[malformed(oid, content)])
    store = trust(odd, root())
    expired = odd.issue(not_after=NOW - DAY).chain
    for judge in (as_server, as_client):
        judge(root().issue().chain, store=store)
        refuse(partial(judge, expired, store=store), Cause.CERTIFICATE_EXPIRED, Alert.CERTIFICATE_EXPIRED, [])


# The trust store


def test_a_bundle_has_comments_several_certificates_and_odd_entries() -> None:
    other = Authority("Other")
    broken = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    data = b"".join(
        (b"# CN=Test Root\n", root().pem(), b"junk\n", broken, other.pem(), root().pem(), b"\xff trailing")
    )
    store = TrustStore.from_pem(data)
    assert store.certificates == (root().certificate, other.certificate)
    assert store.subjects == (root().subject.public_bytes(), other.subject.public_bytes())
    (skipped,) = store.skipped
    assert skipped.startswith(f"The certificate at line {root().pem().count(bytes([10])) + 3} was left out: ")
    assert root().certificate in store
    assert root().issue().certificate not in store
    assert store.named(other.subject) == (other.certificate,)
    assert store.named(pki.common_name("nobody")) == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no PEM certificate"),
        (b"just text", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "can be used. The certificate at line 1"),
        (b"\n-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----", "The X509 CRL at line 2 is not a CERTIFICATE"),
        (b"x" * (truststore.MAX_BUNDLE_BYTES + 1), "at most 4194304 are read"),
    ],
)  # fmt: skip
def test_a_store_without_a_usable_certificate_is_an_error(data: bytes, said: str) -> None:
    with pytest.raises(TrustStoreError) as caught:
        TrustStore.from_pem(data)
    assert said in str(caught.value)


def test_an_empty_store_is_an_error() -> None:
    with pytest.raises(TrustStoreError, match="refuse every peer"):
        TrustStore([])


def test_skipped_entries_are_told_about_within_bounds() -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    store = TrustStore.from_pem(broken * (truststore.MAX_SKIPPED + 5) + root().pem())
    assert len(store.skipped) == truststore.MAX_SKIPPED + 1
    assert store.skipped[-1] == "5 more entries were left out."


def test_a_list_of_subjects_that_is_too_long_is_not_sent_at_all() -> None:
    names = [pki.common_name(f"{i:064}") for i in range(120)]
    store = TrustStore([Authority(subject=name).certificate for name in names])
    assert store.subjects == ()
    assert len(store.certificates) == 120


def test_a_cut_off_entry_does_not_hide_the_next_one() -> None:
    pem = root().pem()
    assert TrustStore.from_pem(pem[:100] + b"\n" + pem).certificates == (root().certificate,)


@given(st.binary(max_size=300))
def test_garbage_is_no_store(data: bytes) -> None:
    with pytest.raises(TrustStoreError):
        TrustStore.from_pem(data)


def test_repr_of_a_pem_block_hides_its_text() -> None:
    (block,) = pem_blocks(b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    assert "secret" not in repr(block)


def test_an_ed25519_signature_is_no_reason_of_its_own() -> None:
    assert isinstance(pki.private_key("ed25519"), ed25519.Ed25519PrivateKey)
    presented = own_root(Authority("Ed", key_type="ed25519"))
    with pytest.raises(CertificateRejected) as caught:
        as_client(presented.chain, store=presented.store)
    assert "is signed with" not in caught.value.failure.reason
