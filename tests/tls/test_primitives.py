"""The arithmetic against published vectors, and what it refuses."""

import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.errors import HandshakeError
from ktls_agent.sansio.tls.parameters import PublicKey, Signer
from ktls_agent.sansio.tls.primitives import (
    CERTIFICATE_ONLY_SCHEMES,
    GROUPS_BY_NAME,
    GROUPS_BY_NUMBER,
    SCHEMES_BY_NUMBER,
    SIGNATURE_SCHEMES,
    SUITES_BY_NAME,
    Group,
    RecordKey,
    Transcript,
    derive_secret,
    hkdf_expand_label,
    hmac_digest,
    sign,
    signature_is_valid,
)
from tests import pki
from tests.peers.adversary import KeySchedule, message_hash
from tests.peers.messages import (
    MessageType,
    Reader,
    Type,
    read_client_hello,
    read_client_shares,
    read_server_hello,
)
from tests.tls.handshakes import Counter, identity

NIST = ("secp256r1", "secp384r1", "secp521r1")
ORDERS = {curve.name: curve.group_order for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}


# RFC 8448: the key schedule, the Finished messages and the record protection of published handshakes


class Trace:
    """One section of the traces, with its bytes."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> bytes:
        return bytes.fromhex(self._values[name])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def messages(self, *names: str) -> bytes:
        return b"".join(self[name] for name in names if name in self)


def section(folder: Path, wanted: str) -> Trace:
    values: dict[str, str] = {}
    current = ""
    for line in (folder / "rfc8448" / "transcripts.vec").read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif " = " in line and current == wanted:
            name, _, value = line.partition(" = ")
            values[name] = value
    return Trace(values)


def without_ccs(data: bytes) -> bytes:
    return data.removeprefix(b"\x14\x03\x03\x00\x01\x01")


def opened(key: RecordKey, data: bytes) -> bytes:
    """What is in the one protected record."""
    inner = key.open_untrusted(data[5:], data[:5])
    assert inner is not None, "a record of the trace does not decrypt"
    assert int.from_bytes(data[3:5]) == len(data) - 5
    return inner.rstrip(b"\0")


FLIGHT = (
    "Message_EncryptedExtensions",
    "Message_CertificateRequest",
    "Message_Server_Certificate",
    "Message_Server_CertificateVerify",
    "Message_Server_Finished",
)


class Replayed:
    """A trace taken through the key schedule, with the private key that the client drew."""

    def __init__(self, trace: Trace, *, private_at: int, psk: bytes | None = None) -> None:
        self.trace = trace
        hello = read_server_hello(trace["Message_ServerHello"])
        share = Reader(dict(hello.extensions)[Type.KEY_SHARE])
        group = GROUPS_BY_NUMBER[share.number(2)]
        pool = trace["Client_RNG_Pool"]
        private = group.generate(lambda count: pool[private_at : private_at + count])
        shared = group.exchange_untrusted(private, share.vector(2))
        self.schedule = KeySchedule(SUITES_BY_NAME["AES_128_GCM"], psk=psk)
        self.transcript = self._hellos()
        last = "Record_ClientHello_2" if "Record_ClientHello_2" in trace else "Record_ClientHello_1"
        sent = read_client_shares(read_client_hello(trace[last][5:]))
        assert group.public_value(private) == sent[group.number]
        self.transcript.update(trace["Message_ServerHello"])
        self.schedule.mix(shared)
        self.client = self.schedule.traffic_secret(b"c hs traffic", self.transcript)
        self.server = self.schedule.traffic_secret(b"s hs traffic", self.transcript)

    def _hellos(self) -> Transcript:
        transcript = Transcript()
        first = self.trace["Record_ClientHello_1"][5:]
        if "Record_ClientHello_2" not in self.trace:
            transcript.update(first)
            return transcript
        transcript.update(message_hash(first, "sha256"))
        transcript.update(self.trace["Record_HelloRetryRequest"][5:])
        transcript.update(self.trace["Record_ClientHello_2"][5:])
        return transcript

    def server_flight(self) -> bytes:
        """Check the server's Finished against the messages before it; return the flight."""
        data = without_ccs(self.trace["Record_ServerHandshakeMessages"])
        flight = opened(self.schedule.record_key(self.server), data)
        assert flight[-1:] == b"\x16"
        self.transcript.update(flight[:-37])
        expected = self.schedule.verify_data(self.server, self.transcript)
        assert flight[-37:-1] == bytes([MessageType.FINISHED, 0, 0, 32]) + expected
        self.transcript.update(flight[-37:-1])
        return flight[:-1]

    def application(self) -> tuple[RecordKey, RecordKey]:
        self.schedule.mix(None)
        client = self.schedule.traffic_secret(b"c ap traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s ap traffic", self.transcript)
        return self.schedule.record_key(client), self.schedule.record_key(server)

    def client_flight(self, data: bytes) -> None:
        flight = opened(self.schedule.record_key(self.client), without_ccs(data))
        assert flight[-1:] == b"\x16"
        self.transcript.update(flight[: -1 - 36])
        verify_data = self.schedule.verify_data(self.client, self.transcript)
        assert flight[-37:-1] == bytes([MessageType.FINISHED, 0, 0, 32]) + verify_data
        self.transcript.update(flight[-37:-1])


@pytest.mark.parametrize(
    ("name", "private_at"),
    [
        ("Simple_1RTT_Handshake", 32),
        ("HelloRetryRequest_Handshake", 64),
        ("Client_Authentication_Handshake", 32),
        ("Middlebox_Compatibility_Mode", 64),
    ],
)
def test_rfc_8448(shared_data: Path, name: str, private_at: int) -> None:
    trace = section(shared_data, name)
    replayed = Replayed(trace, private_at=private_at)
    assert replayed.server_flight() == trace.messages(*FLIGHT)
    client, server = replayed.application()
    replayed.client_flight(trace["Record_ClientFinished"])
    if "Record_NewSessionTicket" in trace:
        assert opened(server, trace["Record_NewSessionTicket"])[0] == MessageType.NEW_SESSION_TICKET
    if "Client_AppData" in trace:
        assert opened(client, trace["Record_Client_AppData"]) == trace["Client_AppData"] + b"\x17"
        assert opened(server, trace["Record_Server_AppData"]) == trace["Server_AppData"] + b"\x17"
    assert opened(client, trace["Record_Client_CloseNotify"]) == b"\x01\x00\x15"
    assert opened(server, trace["Record_Server_CloseNotify"]) == b"\x01\x00\x15"


def test_rfc_8448_resumption_and_early_data(shared_data: Path) -> None:
    first = Replayed(trace := section(shared_data, "Simple_1RTT_Handshake"), private_at=32)
    first.server_flight()
    _, server = first.application()
    first.client_flight(trace["Record_ClientFinished"])
    master = first.schedule.traffic_secret(b"res master", first.transcript)
    ticket = Reader(opened(server, trace["Record_NewSessionTicket"])[4:])
    ticket.take(8)
    psk = hkdf_expand_label(master, b"resumption", ticket.vector(1), 32, "sha256")

    trace = section(shared_data, "Resumed_0RTT_Handshake")
    hello = Transcript()
    hello.update(trace["Record_ClientHello_1"][5:])
    early = KeySchedule(SUITES_BY_NAME["AES_128_GCM"], psk=psk)
    key = early.record_key(early.traffic_secret(b"c e traffic", hello))
    assert opened(key, trace["Record_Client_EarlyAppData"]) == trace["Client_EarlyAppData"] + b"\x17"

    resumed = Replayed(trace, private_at=32, psk=psk)
    # The file has an EncryptedExtensions of its own here: record and Finished fit it, what follows is RFC 8448's.
    assert resumed.server_flight().startswith(trace["Message_EncryptedExtensions"])


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("Simple_1RTT_Handshake", "sha256"), ("Client_Authentication_Handshake", "sha256")],
)
def test_rfc_8448_signatures(shared_data: Path, name: str, scheme: str) -> None:
    trace = section(shared_data, name)
    reader = Reader(trace["Message_Server_Certificate"][4:])
    reader.vector(1)
    der = Reader(reader.vector(3)).vector(3)
    key = x509.load_der_x509_certificate(der).public_key()
    digest = hashlib.new(scheme, trace["Server_MessageToSign"]).digest()
    assert signature_is_valid(_public(key), trace["Server_MessageSignature"], digest, scheme)
    assert not signature_is_valid(_public(key), trace["Server_MessageSignature"], bytes(32), scheme)


def _public(key: object) -> PublicKey:
    assert isinstance(key, PublicKey)
    return key


# HKDF and the transcript


@given(st.binary(max_size=80), st.binary(max_size=200), st.sampled_from(["sha256", "sha384", "sha512"]))
def test_hmac_is_that_of_the_standard_library(key: bytes, data: bytes, name: str) -> None:
    assert hmac_digest(key, data, name) == hmac.digest(key, data, name)


def test_derive_secret_without_a_transcript_hashes_nothing() -> None:
    for name in ("sha256", "sha384"):
        size = hashlib.new(name).digest_size
        empty = Transcript()
        secret = derive_secret(b"s" * size, b"derived", None, name)
        assert secret == derive_secret(b"s" * size, b"derived", empty, name)
        assert len(secret) == size


@given(
    st.lists(st.binary(max_size=50), max_size=8), st.lists(st.sampled_from(["sha256", "sha384"]), max_size=4)
)
def test_a_transcript_is_the_hash_of_all_its_messages(parts: list[bytes], asked: list[str]) -> None:
    transcript, so_far = Transcript(), b""
    for part in parts:
        transcript.update(part)
        so_far += part
        for name in asked:
            assert transcript.digest(name) == hashlib.new(name, so_far).digest()
            assert transcript.digest(name) == hashlib.new(name, so_far).digest()


def test_a_copied_transcript_goes_its_own_way() -> None:
    transcript = Transcript()
    transcript.update(b"one")
    transcript.digest("sha256")
    other = transcript.copy()
    other.update(b"two")
    assert transcript.digest("sha256") == hashlib.sha256(b"one").digest()
    assert other.digest("sha256") == hashlib.sha256(b"onetwo").digest()
    assert other.digest("sha384") == hashlib.sha384(b"onetwo").digest()


# Record protection


@pytest.mark.parametrize("suite", list(SUITES_BY_NAME))
def test_a_record_opens_under_the_same_key_header_and_sequence_only(suite: str) -> None:
    sender = RecordKey.from_traffic_secret(SUITES_BY_NAME[suite], b"s" * 32)
    receiver = RecordKey.from_traffic_secret(SUITES_BY_NAME[suite], b"s" * 32)
    first, second = sender.seal(b"one", b"header"), sender.seal(b"two", b"header")
    assert receiver.open_untrusted(second, b"header") is None
    assert receiver.open_untrusted(first, b"other") is None
    assert receiver.sequence == 0, "a record that is not authentic takes no sequence number"
    assert receiver.open_untrusted(first, b"header") == b"one"
    assert receiver.open_untrusted(second, b"header") == b"two"
    assert receiver.sequence == sender.sequence == 2


@pytest.mark.parametrize("suite", list(SUITES_BY_NAME))
def test_the_nonce_is_the_iv_with_the_sequence_number_in_it(suite: str) -> None:
    key = RecordKey.from_traffic_secret(SUITES_BY_NAME[suite], b"s" * 32)
    key.sequence = 0x0102030405060708
    nonce = bytes(a ^ b for a, b in zip(key.iv, key.sequence.to_bytes(12), strict=True))
    direct = SUITES_BY_NAME[suite].aead(key.key).encrypt(nonce, b"data", b"header")
    assert key.seal(b"data", b"header") == direct
    assert key.traffic_key().sequence == 0x0102030405060709


# Key exchange


def test_x25519_as_in_rfc_7748() -> None:
    """Section 5.2, after one iteration."""
    group, nine = GROUPS_BY_NAME["x25519"], (9).to_bytes(32, "little")
    private = group.generate(lambda _: nine)
    expected = bytes.fromhex("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    assert group.exchange_untrusted(private, nine) == expected
    assert group.public_value(private) == expected


def test_secp256r1_as_in_rfc_5903() -> None:
    group = GROUPS_BY_NAME["secp256r1"]
    private = group.generate(
        lambda _: bytes.fromhex("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433")
    )
    assert group.public_value(private) == bytes.fromhex(
        "04DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
        "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
    )
    share = bytes.fromhex(
        "04D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63"
        "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB"
    )
    assert group.exchange_untrusted(private, share) == bytes.fromhex(
        "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE"
    )


@pytest.mark.parametrize("name", list(GROUPS_BY_NAME))
@given(seeds=st.tuples(st.binary(max_size=8), st.binary(max_size=8)))
def test_both_ends_of_an_exchange_agree(name: str, seeds: tuple[bytes, bytes]) -> None:
    group = GROUPS_BY_NAME[name]
    one, two = (group.generate(Counter(seed)) for seed in seeds)
    shared = group.exchange_untrusted(one, group.public_value(two))
    assert shared == group.exchange_untrusted(two, group.public_value(one))
    assert len(shared) == {"x25519": 32, "secp256r1": 32, "secp384r1": 48, "secp521r1": 66}[name]


@pytest.mark.parametrize("name", NIST)
def test_a_candidate_that_is_no_private_key_is_drawn_again(name: str) -> None:
    size = (ORDERS[name].bit_length() + 7) // 8
    draws = iter([bytes(size), ORDERS[name].to_bytes(size), b"\xff" * size, (5).to_bytes(size)])
    private = GROUPS_BY_NAME[name].generate(lambda _: next(draws))
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.private_numbers().private_value == 5
    assert list(draws) == []


@pytest.mark.parametrize("name", NIST)
def test_entropy_that_never_makes_a_key_ends_the_search(name: str) -> None:
    with pytest.raises(ValueError, match="entropy"):
        GROUPS_BY_NAME[name].generate(bytes)


@pytest.mark.parametrize("name", NIST)
def test_every_private_key_below_the_order_can_be_drawn(name: str) -> None:
    size = (ORDERS[name].bit_length() + 7) // 8
    for value in (1, ORDERS[name] - 1, 1 << (ORDERS[name].bit_length() - 2)):
        private = GROUPS_BY_NAME[name].generate(lambda _, value=value: value.to_bytes(size))  # type: ignore[misc]
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.private_numbers().private_value == value


def point(name: str) -> bytes:
    group = GROUPS_BY_NAME[name]
    return group.public_value(group.generate(Counter()))


def assert_refused(group: Group, share: bytes) -> None:
    with pytest.raises(HandshakeError) as caught:
        group.exchange_untrusted(group.generate(Counter(b"ours")), share)
    assert caught.value.failure.alert is Alert.ILLEGAL_PARAMETER
    assert group.name in caught.value.failure.reason


@pytest.mark.parametrize("name", NIST)
def test_shares_that_are_no_uncompressed_point_of_the_curve(name: str) -> None:
    good = point(name)
    size = len(good) // 2
    compressed = bytes([2 + (good[-1] & 1)]) + good[1 : 1 + size]
    hybrid = bytes([6 + (good[-1] & 1)]) + good[1:]
    off_curve = good[:-1] + bytes([good[-1] ^ 1])
    for share in (
        *(b"", b"\x00", b"\x04", good[:-1], good + b"\0", compressed, hybrid, off_curve),
        *(b"\x04" + bytes(2 * size), b"\x04" + b"\xff" * (2 * size), bytes(len(good))),
        *(point(other) for other in NIST if other != name),
    ):
        assert_refused(GROUPS_BY_NAME[name], share)


LOW_ORDER = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
)


@pytest.mark.parametrize("share", [*LOW_ORDER, b"", b"x" * 31, b"x" * 33])
def test_x25519_shares_of_low_order_or_wrong_length(share: bytes) -> None:
    assert_refused(GROUPS_BY_NAME["x25519"], share)


# Signatures


@pytest.mark.parametrize("scheme", [item for item in SIGNATURE_SCHEMES if item.key_kind != "rsa-pss"])
def test_what_is_signed_verifies_and_nothing_else(scheme: object) -> None:
    assert scheme in SIGNATURE_SCHEMES
    kinds: dict[str, pki.KeyType] = {
        "secp256r1": "p256",
        "secp384r1": "p384",
        "secp521r1": "p521",
        "rsa": "rsa2048",
        "ed25519": "ed25519",
        "ed448": "ed448",
    }
    chosen = next(item for item in SIGNATURE_SCHEMES if item == scheme)
    key = identity(kinds[chosen.key_kind]).private_key
    name = chosen.hash_name or ""
    data = hashlib.new(name, b"content").digest() if name else b"content"
    other = hashlib.new(name, b"other").digest() if name else b"other"
    signature = sign(key, data, name)
    assert not isinstance(key, Signer)
    public = _public(key.public_key())
    assert signature_is_valid(public, signature, data, name)
    assert not signature_is_valid(public, signature, other, name)
    assert not signature_is_valid(public, signature[:-1] + bytes([signature[-1] ^ 1]), data, name)
    for malformed in (b"", b"\0", signature[:-1], signature + b"\0", b"x" * 600):
        assert not signature_is_valid(public, malformed, data, name)


@pytest.mark.parametrize("key_type", ["p256", "p384", "p521", "ed25519", "ed448"])
def test_signatures_are_deterministic_but_for_rsa(key_type: pki.KeyType) -> None:
    key = identity(key_type).private_key
    name = {"p256": "sha256", "p384": "sha384", "p521": "sha512"}.get(key_type, "")
    data = hashlib.new(name, b"content").digest() if name else b"content"
    assert sign(key, data, name) == sign(key, data, name)


def test_schemes_for_certificates_alone_are_not_for_handshakes() -> None:
    assert not set(CERTIFICATE_ONLY_SCHEMES) & set(SCHEMES_BY_NUMBER)
    assert not any(scheme.name.startswith("rsa_pkcs1") for scheme in SIGNATURE_SCHEMES)


def test_an_ephemeral_key_is_never_shown() -> None:
    key = RecordKey.from_traffic_secret(SUITES_BY_NAME["AES_128_GCM"], b"s" * 32)
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)
    private = GROUPS_BY_NAME["secp256r1"].generate(Counter())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert der.hex() not in repr(private)
