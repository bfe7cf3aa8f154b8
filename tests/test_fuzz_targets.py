"""The fuzz targets hold for seeds, committed corpora, regressions, mutated seeds and any bytes, without atheris."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fuzz import corpora, world
from fuzz.peers import ClientPeer, Peer, ServerPeer
from fuzz.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio import lifecycle
from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.netlink.client import GenlClient
from ktls_agent.sansio.status import Alert, Cause, failure
from ktls_agent.sansio.tls.connection import Connection
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, HandshakeFailed
from ktls_agent.sansio.tls.records import RecordReader

ROOT = Path(__file__).parent.parent
SEEDS = {name: target.seeds() for name, target in TARGETS.items()}
KEYED: dict[str, tuple[type[Peer], str]] = {
    "tls_client_keyed": (ServerPeer, "client"),
    "tls_server_keyed": (ClientPeer, "server"),
    "psk_client_keyed": (ServerPeer, "psk_client"),
    "psk_server_keyed": (ClientPeer, "psk_server"),
}
MAX_COMMITTED_BYTES = 3_000_000


# They hold


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_its_seeds(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        assert len(seed) <= TARGETS[name].max_length
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_its_committed_corpus(name: str) -> None:
    inputs = corpora.committed(name)
    assert 0 < len(inputs) <= TARGETS[name].keep
    for data in inputs:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_what_once_broke_it(name: str) -> None:
    for data in corpora.regressions(name).values():
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=20)
@given(data=st.data())
def test_target_holds_for_mutated_seeds(name: str, data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for position in data.draw(st.lists(st.integers(0, len(seed) - 1), min_size=1, max_size=4)):
        seed[position] = data.draw(st.integers(0, 255))
    TARGETS[name].run(bytes(seed[: data.draw(st.integers(0, len(seed)))]))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=15)
@given(data=st.binary(max_size=512))
def test_target_holds_for_arbitrary_bytes(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


# They get where they should


def test_keys_and_certificates_are_the_same_in_every_process() -> None:
    """Signed once more with other keys, the committed corpora would stop where they now go on."""
    made = b"".join((*world.CLIENT.chain, *world.SERVER.chain, world.ROOT, world.DEEP_LEAF))
    assert hashlib.sha256(made).hexdigest() == CERTIFICATES


CERTIFICATES = "6e1331df04888db891ae34ecbd700735fe4070b3d04e57f3aff43e1acd6787b9"


def reached(name: str, data: bytes) -> bool:
    make, role = KEYED[name]
    peer = make(world.engine(role))
    peer.play(data)
    return isinstance(peer.event, HandshakeCompleted)


@pytest.mark.parametrize("name", KEYED)
def test_handshakes_under_the_keys_complete(name: str) -> None:
    assert sum(reached(name, seed) for seed in SEEDS[name]) >= 3
    assert any(reached(name, data) for data in corpora.committed(name))


@pytest.mark.parametrize("name", KEYED)
def test_a_finished_that_is_wrong_in_one_bit_is_refused(name: str) -> None:
    seed = SEEDS[name][0]
    make, role = KEYED[name]
    peer = make(world.engine(role))
    peer.play(seed[:-1] + b"\1")
    verdict = peer.verdict()
    assert verdict.alert is Alert.DECRYPT_ERROR
    assert verdict.protection is not None


@pytest.mark.parametrize("name", KEYED)
def test_a_handshake_that_took_other_messages_is_found(name: str) -> None:
    make, role = KEYED[name]
    for kind in (8, 11, 13, 15, 20):
        peer = make(world.engine(role))
        peer.play(SEEDS[name][0])
        peer.spoken.append(kind)
        with pytest.raises(AssertionError):
            peer.assert_agreement()


# They can fail


def broken_event(engine: TlsEngine, _: object) -> None:
    engine._state = type(engine._state).FAILED
    engine._event = HandshakeFailed(failure=failure(Cause.INTERNAL, "a defect"))


def raising(*_: object, **__: object) -> Any:
    raise ValueError("not documented")


def swapped_secrets(connection: Connection) -> Any:
    tx, rx = connection.reader.key, connection.writer.key
    assert tx is not None
    assert rx is not None
    return KernelSecrets(version=0x0304, cipher=tx.suite.ktls, tx=tx.traffic_key(), rx=rx.traffic_key())


def twice(method: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    return lambda *arguments, **named: method(*arguments, **named) * 2


def run_all(name: str, inputs: Sequence[bytes]) -> None:
    for data in inputs:
        TARGETS[name].run(data)


@pytest.mark.parametrize(
    ("names", "owner", "attribute", "defect"),
    [
        (["netlink_datagram", "genl_session"], GenlClient, "receive_datagram_untrusted", raising),
        (["netlink_datagram", "genl_session"], GenlClient, "answers_lost", lambda _: []),
        (["lifecycle"], lifecycle.Request, "_fail", twice(lifecycle.Request._fail)),
        (["lifecycle"], lifecycle.Request, "_finish", twice(lifecycle.Request._finish)),
        (["lifecycle"], lifecycle.Request, "_report", raising),
        (["tls_client", "tls_server", "psk_client", "psk_server", *KEYED], TlsEngine, "_fail", broken_event),
        (["tls_client", "tls_server"], TlsEngine, "receive_data", raising),
        (list(KEYED), Connection, "take_secrets", swapped_secrets),
        (list(KEYED), TlsEngine, "trailing_data", lambda _: b""),
        (list(KEYED), Connection, "send_alert", lambda *_: None),
        (["tls_server_keyed"], RecordReader, "_take_message", lambda *_: None),
    ],
)
def test_a_defect_is_found(
    names: Sequence[str], owner: Any, attribute: str, defect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, defect)
    for name in names:
        with pytest.raises((AssertionError, ValueError)):
            run_all(name, [data for seed in SEEDS[name] for data in (seed, seed[:-1], seed[:-1] + b"\1")])


# What is on disk


def test_committed_files_belong_to_a_target_and_stay_small() -> None:
    corpus_files = sorted(corpora.CORPORA.iterdir())
    assert {path.stem for path in corpus_files} == set(TARGETS)
    assert sum(path.stat().st_size for path in corpus_files) < MAX_COMMITTED_BYTES
    assert {path.name for path in corpora.REGRESSIONS.iterdir()} <= set(TARGETS)


def test_a_corpus_is_written_sorted_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "CORPORA", tmp_path / "corpora")
    corpora.commit("one", [b"long\0", b"b", b"a", b"a", b""])
    assert corpora.committed("one") == [b"", b"a", b"b", b"long\0"]
    assert (tmp_path / "corpora" / "one.txt").read_text().splitlines()[1] == base64.b64encode(b"a").decode()
    assert corpora.committed("other") == []


def test_unpacked_inputs_are_files_named_after_their_content(tmp_path: Path) -> None:
    corpora.unpack([b"a", b"a", b"b"], tmp_path / "new")
    found = corpora.contents(tmp_path / "new")
    assert sorted(found.values()) == [b"a", b"b"]
    assert hashlib.sha1(b"a", usedforsecurity=False).hexdigest() in found
    assert corpora.contents(tmp_path / "absent") == {}


def test_every_target_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8")
    assert [name for name in TARGETS if f"`{name}`" not in text] == []
