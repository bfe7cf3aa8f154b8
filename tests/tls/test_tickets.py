"""A session ticket behind the handshake is seen, whatever else may lie there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.ktls import TLS_1_3_VERSION, KernelSecrets, KtlsCipher, TrafficKey
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, CipherSuite, RecordKey
from ktls_agent.sansio.tls.tickets import PEEK_SIZE, ticket_waits_untrusted

SUITES = [SUITES_BY_NAME[name] for name in SUITES_BY_NAME]
TICKET = b"\4\0\0\4abcd"


def secrets_of(suite: CipherSuite, sequence: int = 0) -> KernelSecrets:
    rx = TrafficKey(key=b"\7" * suite.key_length, iv=b"\1" * 12, sequence=sequence)
    tx = TrafficKey(key=b"\3" * suite.key_length, iv=b"\2" * 12, sequence=0)
    return KernelSecrets(version=TLS_1_3_VERSION, cipher=suite.ktls, tx=tx, rx=rx)


def record(suite: CipherSuite, inner: bytes, sequence: int = 0) -> bytes:
    """One record under the receiving key."""
    header = b"\x17\3\3" + (len(inner) + 16).to_bytes(2)
    key = RecordKey(suite=suite, key=b"\7" * suite.key_length, iv=b"\1" * 12, sequence=sequence)
    return header + key.seal(inner, header)


AES = SUITES_BY_NAME["AES_128_GCM"]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("behind", [b"", b"\x17\3\3\0\1x", bytes(100)])
def test_sees_a_ticket(suite: CipherSuite, behind: bytes) -> None:
    secrets = secrets_of(suite, 5)
    for _ in range(2):  # and uses no key up
        assert ticket_waits_untrusted(record(suite, TICKET + b"\x16\0\0", 5) + behind, secrets)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x17",
        b"\x17\3\3\0",
        b"\x17\3\3\0\0",
        record(AES, TICKET + b"\x16")[:-1],
        record(AES, TICKET + b"\x17"),
        record(AES, TICKET + b"\x16", 1),
        record(AES, b"\x18\0\0\1\0\x16"),
        record(AES, b"\x16"),
        record(AES, b"\0\0"),
        b"\x15" + record(AES, TICKET + b"\x16")[1:],
        b"\x17\3\3\0\2ab",
    ],
    ids=[
        "nothing",
        "one_byte",
        "half_a_header",
        "empty_record",
        "part_of_a_ticket",
        "data",
        "another_number",
        "key_update",
        "empty_message",
        "no_type",
        "alert",
        "too_short_to_decrypt",
    ],
)
def test_sees_none_where_there_is_none(data: bytes) -> None:
    assert not ticket_waits_untrusted(data, secrets_of(AES))


@given(
    st.binary(max_size=100) | st.binary(max_size=100).map(b"\x17\3\3\0\x20".__add__), st.sampled_from(SUITES)
)
def test_lets_no_error_escape(data: bytes, suite: CipherSuite) -> None:
    assert not ticket_waits_untrusted(data, secrets_of(suite))


def test_a_look_takes_the_largest_record_in() -> None:
    assert len(record(AES, bytes(2**14) + b"\x16" + bytes(239))) == PEEK_SIZE
    assert {suite.ktls for suite in SUITES} == set(KtlsCipher)
