"""Post-quantum key exchange: what goes over the wire, what comes out, and what is refused."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.policy import CLASSICAL, HYBRID, KeyExchange
from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.steps import Encapsulated, Step
from ktls_agent.sansio.tls import hybrid
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.errors import HandshakeError
from ktls_agent.sansio.tls.hybrid import EXCHANGES_BY_NUMBER, HYBRIDS_BY_NUMBER, Hybrid
from ktls_agent.sansio.tls.parameters import CIPHER_SUITES, GROUPS, HYBRID_GROUPS, HandshakeCompleted
from tests.tls.handshakes import (
    BYTE_BY_BYTE,
    Counter,
    client_parameters,
    secrets_of,
    server_parameters,
    shake_hands,
)

BY_NAME = {each.name: each for each in HYBRIDS_BY_NUMBER.values()}
X25519, P256 = (BY_NAME[name] for name in HYBRID_GROUPS)
NOW_OFFERED = {"groups": HYBRID.groups, "key_shares": HYBRID.key_shares}


def lattice_key(group: Hybrid, seed: bytes) -> mlkem.MLKEM768PrivateKey:
    """The ML-KEM key that a group draws from this entropy."""
    return mlkem.MLKEM768PrivateKey.from_seed_bytes(Counter(seed)(64))


# What the draft says


def test_the_code_points_are_those_of_the_registry() -> None:
    assert {each.name: number for number, each in HYBRIDS_BY_NUMBER.items()} == {
        "x25519mlkem768": 0x11EC,
        "secp256r1mlkem768": 0x11EB,
    }
    assert {each.name for each in EXCHANGES_BY_NUMBER.values()} == {*HYBRID_GROUPS, *GROUPS}


@pytest.mark.parametrize(
    ("group", "lattice", "curve", "client", "server"),
    [
        # draft-ietf-tls-ecdhe-mlkem, 4.1 and 4.2: 1216 and 1120, 1249 and 1153 bytes
        (X25519, slice(1184), slice(1184, None), 1216, 1120),
        (P256, slice(65, None), slice(65), 1249, 1153),
    ],
    ids=HYBRID_GROUPS,
)
def test_shares_and_secrets_are_put_together_as_the_draft_says(
    group: Hybrid, lattice: slice, curve: slice, client: int, server: int
) -> None:
    entropy = Counter(b"client")
    private = group.generate(entropy)
    share = group.public_value(private)
    assert entropy.drawn[0] == 64
    assert len(share) == client
    assert share[lattice] == lattice_key(group, b"client").public_key().public_bytes_raw()
    assert share[curve] == group.curve.public_value(private.curve)

    lattice_secret, ciphertext = b"\x11" * 32, b"\x22" * 1088

    def encapsulate(public: bytes) -> tuple[bytes, bytes]:
        assert public == share[lattice]
        return lattice_secret, ciphertext

    secret, answer = group.encapsulate_untrusted(share, Counter(b"server"), encapsulate)
    assert len(answer) == server
    point = answer[1088:] if group.lattice_first else answer[:65]
    assert answer == (ciphertext + point if group.lattice_first else point + ciphertext)
    curve_secret = group.curve.exchange_untrusted(private.curve, point)
    assert secret == (lattice_secret + curve_secret if group.lattice_first else curve_secret + lattice_secret)


@pytest.mark.parametrize("group", [X25519, P256], ids=HYBRID_GROUPS)
def test_both_sides_have_the_same_secret(group: Hybrid) -> None:
    private = group.generate(Counter(b"client"))
    secret, answer = group.encapsulate_untrusted(
        group.public_value(private), Counter(b"server"), hybrid.encapsulate
    )
    assert group.exchange_untrusted(private, answer) == secret
    assert len(secret) == 64


# What is refused


def refused(attempt: Callable[[], object]) -> str:
    with pytest.raises(HandshakeError) as caught:
        attempt()
    assert caught.value.failure.cause is Cause.PROTOCOL_VIOLATION
    assert caught.value.failure.alert is Alert.ILLEGAL_PARAMETER
    return caught.value.failure.reason


@pytest.mark.parametrize(("group", "change"), [*product([X25519, P256], [-1, 1, -10_000])])
def test_shares_of_another_length_are_refused(group: Hybrid, change: int) -> None:
    private = group.generate(Counter())
    share = group.public_value(private)
    wrong = share[:change] if change < 0 else share + bytes(change)
    reason = refused(lambda: group.encapsulate_untrusted(wrong, Counter(), hybrid.encapsulate))
    assert f"{group.name} key share of {len(wrong)} bytes instead of {len(share)}" in reason
    refused(lambda: group.exchange_untrusted(private, wrong))


@pytest.mark.parametrize("group", [X25519, P256], ids=HYBRID_GROUPS)
def test_numbers_beyond_the_modulus_are_refused(group: Hybrid) -> None:
    # FIPS 203, 7.2, modulus check: 0xFFF is no number below 3329.
    share = bytearray(group.public_value(group.generate(Counter())))
    start = 0 if group.lattice_first else 65
    share[start : start + 3] = b"\xff\xff\xff"
    reason = refused(lambda: group.encapsulate_untrusted(bytes(share), Counter(), hybrid.encapsulate))
    assert "without an ML-KEM key" in reason


@pytest.mark.parametrize("group", [X25519, P256], ids=HYBRID_GROUPS)
def test_a_point_of_no_use_is_refused_on_both_sides(group: Hybrid) -> None:
    private = group.generate(Counter(b"client"))
    _, answer = group.encapsulate_untrusted(
        group.public_value(private), Counter(b"server"), hybrid.encapsulate
    )

    def spoilt(share: bytes) -> bytes:
        return share[:-32] + bytes(32) if group.lattice_first else b"\x04" + bytes(64) + share[65:]

    wrong = spoilt(group.public_value(private))
    refused(lambda: group.encapsulate_untrusted(wrong, Counter(), hybrid.encapsulate))
    refused(lambda: group.exchange_untrusted(private, spoilt(answer)))


@given(st.sampled_from([X25519, P256]), st.binary(max_size=80), st.integers(0, 1300))
def test_any_share_is_taken_or_refused(group: Hybrid, data: bytes, place: int) -> None:
    private = group.generate(Counter(b"client"))
    share = bytearray(group.public_value(private))
    share[place : place + len(data)] = data
    answer = bytearray(bytes(share)[:1120] if group.lattice_first else bytes(share)[:1153])
    for attempt in (
        lambda: group.encapsulate_untrusted(bytes(share), Counter(), hybrid.encapsulate),
        lambda: group.exchange_untrusted(private, bytes(answer)),
    ):
        with contextlib.suppress(HandshakeError):
            attempt()


# Whole handshakes


@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, HYBRID_GROUPS)])
@pytest.mark.parametrize("retry", [False, True])
def test_every_suite_with_every_group(suite: str, group: str, retry: bool) -> None:
    shares = ("x25519",) if retry else (group,)
    pair = shake_hands(
        client_parameters(cipher_suites=(suite,), groups=(group, "x25519"), key_shares=shares),
        server_parameters(groups=(group,)),
    )
    client, server = secrets_of(pair)
    assert (client.tx, client.rx) == (server.rx, server.tx)
    assert isinstance(pair.client.event, HandshakeCompleted)
    assert pair.client.event.group == group


def test_byte_by_byte() -> None:
    pair = shake_hands(
        client_parameters(**NOW_OFFERED), server_parameters(groups=HYBRID.groups), link=BYTE_BY_BYTE
    )
    assert isinstance(pair.server.event, HandshakeCompleted)
    assert pair.server.event.group == "x25519mlkem768"


@pytest.mark.parametrize(
    ("client", "server", "group"),
    [
        (HYBRID, HYBRID, "x25519mlkem768"),
        (HYBRID, CLASSICAL, "x25519"),
        (CLASSICAL, HYBRID, "x25519"),
        (
            replace(HYBRID, key_shares=("x25519",)),
            HYBRID,
            "x25519",
        ),  # a share that is there saves a round trip
        (HYBRID, replace(CLASSICAL, groups=("secp256r1",)), "secp256r1"),
    ],
    ids=["both", "client alone", "server alone", "client without share", "after a retry"],
)
def test_what_one_side_lacks_the_other_does_without(
    client: KeyExchange, server: KeyExchange, group: str
) -> None:
    pair = shake_hands(
        client_parameters(groups=client.groups, key_shares=client.key_shares),
        server_parameters(groups=server.groups),
    )
    assert isinstance(pair.client.event, HandshakeCompleted)
    assert pair.client.event.group == group


def server_run(
    hello: bytes, encapsulate: hybrid.Encapsulate = hybrid.encapsulate
) -> tuple[bytes, list[Step]]:
    steps: list[Step] = []
    engine = TlsEngine(
        server_parameters("ed25519", groups=HYBRID.groups),
        entropy=Counter(b"server"),
        trace=steps.append,
        encapsulate=encapsulate,
    )
    engine.start()
    engine.receive_data(hello)
    return engine.data_to_send(), steps


def test_what_was_encapsulated_is_told_and_gives_the_same_bytes_again() -> None:
    client = TlsEngine(client_parameters(**NOW_OFFERED), entropy=Counter(b"client"))
    client.start()
    hello = client.data_to_send()
    answer, steps = server_run(hello)
    (told,) = (step for step in steps if isinstance(step, Encapsulated))
    assert told.secret is not None
    assert len(told.ciphertext) == 1088
    assert told.ciphertext in answer
    assert told.secret.hex() not in repr(told)
    assert server_run(hello)[0] != answer  # The library draws.
    assert server_run(hello, lambda _: (told.secret or b"", told.ciphertext)) == (answer, steps)


def test_a_wrong_ciphertext_is_found_by_the_finished() -> None:
    client = TlsEngine(client_parameters(**NOW_OFFERED), entropy=Counter(b"client"))
    client.start()
    answer, steps = server_run(client.data_to_send())
    (told,) = (step for step in steps if isinstance(step, Encapsulated))
    place = answer.index(told.ciphertext)
    client.receive_data(answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :])
    failed = client.next_event()
    assert failed is not None
    assert not isinstance(failed, HandshakeCompleted)


# Where it is not available


def test_a_cryptography_without_ml_kem_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hybrid.available()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mlkem", None)
    monkeypatch.delattr("cryptography.hazmat.primitives.asymmetric.mlkem", raising=False)
    assert not hybrid.available()
