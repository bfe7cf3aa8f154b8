"""Which revocation lists count, and what becomes of the certificates that they are asked about."""

import datetime as dt
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.status import Alert, Cause, Failure
from ktls_agent.sansio.tls import revocation
from ktls_agent.sansio.tls.parameters import CertificateRejected
from ktls_agent.sansio.tls.revocation import RevocationListError, RevocationLists
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier, TrustStore
from tests import pki
from tests.peers.live import find_program
from tests.pki import DAY, NOW, Authority, Issued, key_usage
from tests.tls.revocations import crl, entry, pem


@cache
def root() -> Authority:
    return Authority("Revoking Root")


@cache
def intermediate() -> Authority:
    return root().subordinate("Revoking Intermediate")


@cache
def leaf() -> Issued:
    return intermediate().issue()


def serial(issued: Issued | Authority) -> int:
    return issued.certificate.serial_number


def scope(**only: object) -> pki.Extension:
    settings: dict[str, object] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**settings, **only}), True  # type: ignore[arg-type]


def judge(
    *lists: x509.CertificateRevocationList,
    issued: Issued | None = None,
    store: TrustStore | None = None,
    now: dt.datetime = NOW,
    role: str = "server",
) -> Failure | None:
    found = RevocationLists.from_file(pem(*lists))
    issued = issued or leaf()
    store = store or TrustStore([root().certificate])
    verifier: ServerCertificateVerifier | ClientCertificateVerifier
    if role == "server":
        verifier = ServerCertificateVerifier(store, name="server.test", now=now, revocation=found)
    else:
        verifier = ClientCertificateVerifier(store, now=now, revocation=found)
    try:
        verifier.verify_untrusted(issued.chain)
    except CertificateRejected as rejected:
        return rejected.failure
    return None


def odd(content: bytes = b"\x05\x00", *, critical: bool = True) -> pki.Extension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), content), critical


DISTRIBUTION = x509.UniformResourceIdentifier("http://crl.test/part-1.crl")
ACCEPTED: dict[str, Callable[[], list[x509.CertificateRevocationList]]] = {
    "nothing revoked": lambda: [crl(root()), crl(intermediate())],
    "others revoked": lambda: [crl(intermediate(), 99, 98)],
    "no list of its issuer": lambda: [crl(root(), serial(leaf()))],
    "a list of another authority with its serial": lambda: [crl(Authority("Other"), serial(leaf()))],
    "a list of a former key of the same name": lambda: [
        crl(Authority("Revoking Intermediate", key_label="former"), serial(leaf()))
    ],
    "a current list beside one that is out of date": lambda: [
        crl(intermediate(), next_update=NOW - DAY / 2),
        crl(intermediate()),
    ],
    "released since the list before": lambda: [
        crl(
            intermediate(), entry(serial(leaf()), x509.ReasonFlags.certificate_hold), next_update=NOW - DAY / 2
        ),
        crl(intermediate()),
    ],
    "an entry that takes a revocation back": lambda: [
        crl(intermediate(), entry(serial(leaf()), x509.ReasonFlags.remove_from_crl))
    ],
    "a list for authorities with the leaf in it": lambda: [
        crl(intermediate(), serial(leaf()), extensions=[scope(only_contains_ca_certs=True)])
    ],
    "a list for end entities with the intermediate in it": lambda: [
        crl(root(), serial(intermediate()), extensions=[scope(only_contains_user_certs=True)])
    ],
    "a list of attribute certificates": lambda: [
        crl(intermediate(), serial(leaf()), extensions=[scope(only_contains_attribute_certs=True)])
    ],
    "an unknown extension that is not critical": lambda: [crl(intermediate(), extensions=[odd(critical=False)])],
    "a delta list beside the complete one": lambda: [
        crl(intermediate(), extensions=[(x509.DeltaCRLIndicator(6), True)]),
        crl(intermediate()),
    ],
    "a list without key identifier": lambda: [crl(intermediate(), omit=[x509.AuthorityKeyIdentifier])],
    "on the last moment of the list": lambda: [crl(intermediate(), this_update=NOW, next_update=NOW)],
}  # fmt: skip


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("lists", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepts(lists: Callable[[], list[x509.CertificateRevocationList]], role: str) -> None:
    assert judge(*lists(), role=role) is None


REVOKED: dict[str, tuple[Callable[[], list[x509.CertificateRevocationList]], str]] = {
    "the leaf": (
        lambda: [crl(intermediate(), 98, serial(leaf()), 99)],
        (
            "The {role}'s certificate (CN=server.test, issued by CN=Revoking Intermediate) was revoked by its issuer on "
            "2026-05-29 12:00 UTC; it takes a new one."
        ),
    ),
    "the leaf, with a reason": (
        lambda: [crl(intermediate(), entry(serial(leaf()), x509.ReasonFlags.key_compromise))],
        "UTC (keyCompromise); it takes",
    ),
    "the intermediate": (
        lambda: [crl(intermediate()), crl(root(), serial(intermediate()))],
        "The intermediate certificate (CN=Revoking Intermediate, issued by CN=Revoking Root) was revoked",
    ),
    "the intermediate, in a list for authorities": (
        lambda: [crl(root(), serial(intermediate()), extensions=[scope(only_contains_ca_certs=True)])],
        "The intermediate certificate",
    ),
    "the leaf, in a list for end entities": (
        lambda: [crl(intermediate(), serial(leaf()), extensions=[scope(only_contains_user_certs=True)])],
        "The {role}'s certificate",
    ),
    "the leaf, in one part of a list": (
        lambda: [
            crl(intermediate()),
            crl(intermediate(), serial(leaf()), extensions=[scope(full_name=[DISTRIBUTION])]),
        ],
        "The {role}'s certificate",
    ),
    "the leaf, in a list out of date": (
        lambda: [crl(intermediate(), serial(leaf()), next_update=NOW - DAY / 2)],
        "was revoked by its issuer",
    ),
    "the leaf, in a list without key identifier": (
        lambda: [crl(intermediate(), serial(leaf()), omit=[x509.AuthorityKeyIdentifier])],
        "was revoked",
    ),
    "the leaf, with a date of invalidity": (
        lambda: [
            crl(
                intermediate(),
                entry(serial(leaf()), extensions=[(x509.InvalidityDate(NOW - 9 * DAY), True)]),
            )
        ],
        "was revoked",
    ),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(("lists", "said"), REVOKED.values(), ids=REVOKED.keys())
def test_refuses_what_is_revoked(
    lists: Callable[[], list[x509.CertificateRevocationList]], said: str, role: str
) -> None:
    failed = judge(*lists(), role=role)
    assert failed is not None
    assert (failed.cause, failed.alert) == (Cause.CERTIFICATE_REVOKED, Alert.CERTIFICATE_REVOKED)
    assert said.format(role=role) in failed.reason


UNKNOWN: dict[str, tuple[Callable[[], x509.CertificateRevocationList], str]] = {
    "out of date": (
        lambda: crl(intermediate(), next_update=NOW - DAY / 2),
        "is out of date: the next one was due on 2026-06-01 00:00 UTC; it is 2026-06-01 12:00 UTC here.",
    ),
    "not yet valid": (
        lambda: crl(intermediate(), this_update=NOW + DAY, next_update=NOW + 2 * DAY),
        "is valid only from 2026-06-02 12:00 UTC; it is 2026-06-01 12:00 UTC here.",
    ),
    "signed by another": (
        lambda: crl(intermediate(), signer=Authority("Forger")),
        "has a signature that is not its issuer's.",
    ),
    "signed with another kind of key": (
        lambda: crl(intermediate(), signer=Authority("Forger", key_type="ed25519")),
        "has a signature that is not its issuer's.",
    ),
    "a delta list alone": (
        lambda: crl(intermediate(), extensions=[(x509.DeltaCRLIndicator(6), True)]),
        "is a delta list, which has the changes only",
    ),
    "an indirect list": (
        lambda: crl(intermediate(), extensions=[scope(indirect_crl=True)]),
        "is an indirect list",
    ),
    "some reasons only": (
        lambda: crl(
            intermediate(), extensions=[scope(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise]))]
        ),
        "has the revocations for some reasons only",
    ),
    "an unknown critical extension": (
        lambda: crl(intermediate(), extensions=[odd()]),
        "has a critical extension that is not known (1.3.6.1.4.1.99999.1)",
    ),
    "an unknown critical extension of an entry": (
        lambda: crl(intermediate(), 1, entry(2, extensions=[odd()])),
        "has an entry with a critical extension that is not known (1.3.6.1.4.1.99999.1)",
    ),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(("made", "said"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_refuses_what_no_current_list_speaks_of(
    made: Callable[[], x509.CertificateRevocationList], said: str, role: str
) -> None:
    failed = judge(made(), role=role)
    assert failed is not None
    assert (failed.cause, failed.alert) == (Cause.REVOCATION_UNKNOWN, Alert.CERTIFICATE_UNKNOWN)
    assert "the revocation list of CN=Revoking Intermediate " + said in failed.reason
    assert "Put the authority's current list into the file of x509.crl, and reload" in failed.reason


def test_an_authority_that_may_not_sign_lists_signs_none() -> None:
    silent = root().subordinate("Silent", extensions=[(key_usage("key_cert_sign"), True)])
    failed = judge(crl(silent), issued=silent.issue())
    assert failed is not None
    assert failed.cause is Cause.REVOCATION_UNKNOWN
    assert "is signed with a key whose keyUsage lacks cRLSign." in failed.reason


def test_an_authority_without_key_usage_or_identifier_signs_lists() -> None:
    plain = root().subordinate("Plain", omit=[x509.KeyUsage, x509.SubjectKeyIdentifier])
    issued = plain.issue()
    failed = judge(crl(plain, serial(issued)), issued=issued)
    assert failed is not None
    assert failed.cause is Cause.CERTIFICATE_REVOKED


def test_sha1_signs_no_list() -> None:
    # cryptography signs with SHA-1 no more, so the name of the algorithm is changed in one that it signed.
    old = Authority("Old", key_type="rsa2048")
    der = crl(old).public_bytes(Encoding.DER)
    sha256, sha1 = (bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("0b", "05"))
    lists = RevocationLists.from_file(der.replace(sha256, sha1))
    assert lists.oddities(NOW) == [
        "The revocation list of CN=Old is signed with SHA1; SHA-256 or better is needed."
    ]


def test_lists_are_signed_with_any_key_of_an_authority() -> None:
    # (Ed25519 authorities are not verified in a path, so this one is asked directly)
    key_types: tuple[pki.KeyType, ...] = ("rsa2048", "p384", "p521")
    for key_type in key_types:
        authority = Authority(f"Root {key_type}", key_type=key_type)
        issued = authority.issue()
        failed = judge(
            crl(authority, serial(issued)), issued=issued, store=TrustStore([authority.certificate])
        )
        assert failed is not None
        assert failed.cause is Cause.CERTIFICATE_REVOKED
    modern = Authority("Modern", key_type="ed25519")
    assert isinstance(modern.private_key, ed25519.Ed25519PrivateKey)
    RevocationLists.from_file(pem(crl(modern))).check_anchors(TrustStore([modern.certificate]))


def test_a_trust_anchor_is_not_asked_about() -> None:
    pinned = root().issue()
    store = TrustStore([pinned.certificate])
    assert judge(crl(root(), serial(pinned)), issued=pinned, store=store) is None
    assert judge(crl(root(), serial(root()))) is None


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = RevocationLists.from_file(pem(crl(intermediate()), crl(root())))
    found.check_anchors(TrustStore([root().certificate]))
    checked = []

    def signed(parsed: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
        checked.append(issuer)
        return True

    monkeypatch.setattr(revocation, "_signed", signed)
    for _ in range(3):
        verifier = ServerCertificateVerifier(
            TrustStore([root().certificate]), name="server.test", now=NOW, revocation=found
        )
        verifier.verify_untrusted(leaf().chain)
    assert checked == [intermediate().certificate]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "MAX_REMEMBERED", 2)
    found = RevocationLists.from_file(pem(*(crl(Authority(f"A{n}")) for n in range(5))))
    found.check_anchors(TrustStore([Authority(f"A{n}").certificate for n in range(5)]))
    assert len(found._remembered) <= 2


# The file


def test_takes_pem_of_several_with_text_around_and_der() -> None:
    lists = [crl(root(), 1), crl(intermediate(), 2, 3)]
    several = RevocationLists.from_file(b"0 is how this text begins\n" + pem(*lists) + b"its end\n")
    assert [list(each.revoked) for each in several.lists] == [[1], [2, 3]]
    one = RevocationLists.from_file(lists[1].public_bytes(Encoding.DER))
    assert [list(each.revoked) for each in one.lists] == [[2, 3]]
    assert several.oddities(NOW) == one.oddities(NOW) == []


def test_tells_of_other_blocks() -> None:
    found = RevocationLists.from_file(root().pem() + pem(crl(root())))
    assert found.oddities(NOW) == ["The CERTIFICATE at line 1 is no X509 CRL and was left out."]


def _broken(made: bytes) -> bytes:
    return made[:200] + b"!" + made[201:]


UNUSABLE = {
    "empty": (lambda: b"", "The file holds no revocation list, in PEM (X509 CRL) or in DER."),
    "other things": (lambda: root().pem(), "The file holds no revocation list"),
    "broken PEM": (
        lambda: pem(crl(root())) + _broken(pem(crl(root()))),
        " can't be parsed: ",
    ),
    "cut PEM": (lambda: pem(crl(root())) + pem(crl(root()))[:-30], "1 of 2 revocation lists are cut off."),
    "cut DER": (lambda: crl(root()).public_bytes(Encoding.DER)[:-1], "The list can't be parsed: "),
    "DER with more behind": (
        lambda: crl(root()).public_bytes(Encoding.DER) + b"\0",
        "The list can't be parsed: ",
    ),
    "a certificate in DER": (lambda: root().der(), "The list can't be parsed: "),
    "an unreadable extension": (
        lambda: pem(
            crl(root(), extensions=[(x509.UnrecognizedExtension(x509.CRLNumber.oid, b"\x05\x00"), False)])
        ),
        "The list at line 1 can't be parsed: ",
    ),
    "too big": (lambda: bytes(revocation.MAX_LISTS_BYTES + 1), "bytes; at most 33554432 are read."),
}


@pytest.mark.parametrize(("data", "said"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_cannot_be_read_is_an_error(data: Callable[[], bytes], said: str) -> None:
    with pytest.raises(RevocationListError) as caught:
        RevocationLists.from_file(data())
    assert said in str(caught.value)


@pytest.mark.parametrize(("limit", "value"), [("MAX_LISTS", 2), ("MAX_REVOKED", 5)])
def test_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    data = pem(*(crl(root(), *range(1, 3)) for _ in range(3)))
    assert len(RevocationLists.from_file(data).lists) == 3
    monkeypatch.setattr(revocation, limit, value)
    with pytest.raises(RevocationListError, match=f"more than {value} "):
        RevocationLists.from_file(data)


def test_a_huge_list_is_looked_up_in_no_time() -> None:
    count = 100_000
    listed = crl(intermediate(), *(entry(10**40 + n) for n in range(count)), entry(serial(leaf())))
    found = RevocationLists.from_file(listed.public_bytes(Encoding.DER))
    store = TrustStore([root().certificate])
    verifier = ClientCertificateVerifier(store, now=NOW, revocation=found)
    took = []
    for _ in range(5):
        started = time.thread_time()
        with pytest.raises(CertificateRejected, match="was revoked"):
            verifier.verify_untrusted(leaf().chain)
        took.append(time.thread_time() - started)
    # The first one checks the signature, of some MB.  The library's own look-up takes 6 ms, a chain 0.2 ms.
    assert min(took[1:]) < 0.003


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x30\x82" + data))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(RevocationListError):
        RevocationLists.from_file(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_list_with_one_byte_changed_is_read_or_refused(place: int, value: int) -> None:
    data = bytearray(crl(root(), entry(5, x509.ReasonFlags.superseded)).public_bytes(Encoding.DER))
    data[place % len(data)] = value
    try:
        found = RevocationLists.from_file(bytes(data))
        found.oddities(NOW)
        found.check_anchors(TrustStore([root().certificate]))
    except RevocationListError:
        return


# At the start


def test_a_forged_list_of_an_anchor_is_an_error_at_the_start() -> None:
    found = RevocationLists.from_file(pem(crl(intermediate()), crl(root(), signer=Authority("Forger"))))
    with pytest.raises(RevocationListError) as caught:
        found.check_anchors(TrustStore([root().certificate]))
    assert str(caught.value) == (
        "The revocation list of CN=Revoking Root has a signature that is not its issuer's. "
        "Fetch it from the authority again."
    )


def test_an_anchor_with_a_key_that_signs_nothing_has_signed_no_list() -> None:
    odd_key = x25519.X25519PrivateKey.generate().public_key()
    anchor = root().issue(
        subject=root().subject,
        public_key=odd_key,  # type: ignore[arg-type]
        omit=[x509.SubjectKeyIdentifier, x509.KeyUsage],
    )
    with pytest.raises(RevocationListError, match="has a signature that is not"):
        RevocationLists.from_file(pem(crl(root()))).check_anchors(TrustStore([anchor.certificate]))


def test_one_of_several_anchors_of_a_name_has_signed_it() -> None:
    other = Authority("Revoking Root", key_label="other key")
    store = TrustStore([other.certificate, root().certificate])
    bare = crl(root(), omit=[x509.AuthorityKeyIdentifier])
    RevocationLists.from_file(pem(crl(root()), bare)).check_anchors(store)


def test_tells_of_what_will_refuse_peers() -> None:
    found = RevocationLists.from_file(
        pem(
            crl(root(), next_update=NOW - DAY / 2),
            crl(intermediate(), extensions=[scope(indirect_crl=True)]),
            crl(Authority("Fine")),
        )
    )
    assert found.oddities(NOW) == [
        (
            "The revocation list of CN=Revoking Root is out of date: the next one was due on 2026-06-01 00:00 UTC; it is "
            "2026-06-01 12:00 UTC here. Until there is a current one, its certificates are refused."
        ),
        (
            "The revocation list of CN=Revoking Intermediate is an indirect list, of certificates of other authorities, "
            "which is not supported."
        ),
    ]


# What OpenSSL says

SAME_AS_OPENSSL = {
    "nothing revoked": lambda: [crl(root()), crl(intermediate())],
    "the leaf revoked": lambda: [crl(root()), crl(intermediate(), serial(leaf()))],
    "the intermediate revoked": lambda: [crl(root(), serial(intermediate())), crl(intermediate())],
    "the leaf's out of date": lambda: [crl(root()), crl(intermediate(), next_update=NOW - DAY / 2)],
    "the intermediate's not yet valid": lambda: [
        crl(root(), this_update=NOW + DAY, next_update=NOW + 2 * DAY),
        crl(intermediate()),
    ],
    "forged": lambda: [crl(root()), crl(intermediate(), signer=Authority("Forger"))],
    "unknown critical extension": lambda: [crl(root()), crl(intermediate(), extensions=[odd()])],
    "taken back": lambda: [
        crl(root()),
        crl(intermediate(), entry(serial(leaf()), x509.ReasonFlags.remove_from_crl)),
    ],
}


@pytest.mark.parametrize("lists", SAME_AS_OPENSSL.values(), ids=SAME_AS_OPENSSL.keys())
def test_judges_as_openssl_does(
    lists: Callable[[], list[x509.CertificateRevocationList]], tmp_path: Path
) -> None:
    openssl = find_program("openssl", "openssl")
    (tmp_path / "root.pem").write_bytes(root().pem())
    (tmp_path / "between.pem").write_bytes(intermediate().pem())
    (tmp_path / "leaf.pem").write_bytes(leaf().certificate_pem())
    (tmp_path / "lists.pem").write_bytes(pem(*lists()))
    command = [openssl, "verify", "-crl_check_all", "-attime", str(int(NOW.timestamp()))]
    command += ["-CAfile", "root.pem", "-untrusted", "between.pem", "-CRLfile", "lists.pem", "leaf.pem"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (judge(*lists()) is None) == (said.returncode == 0), said
