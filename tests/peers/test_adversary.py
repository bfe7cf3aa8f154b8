"""The adversary, when it is honest, is a TLS 1.3 peer: only then do its lies prove anything."""

from itertools import product

import pytest

from ktls_agent.sansio.ktls import TrafficKey
from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import CIPHER_SUITES, GROUPS
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME
from tests.peers.adversary import (
    Adversary,
    ClientAdversary,
    Protection,
    ServerAdversary,
    after,
    before,
    instead,
    sends,
    sends_alert,
    sends_raw,
    sends_record,
    swapped,
    twice,
    without,
)
from tests.peers.messages import MessageType, message
from tests.pki import KeyType
from tests.tls.handshakes import (
    KEY_TYPES,
    client_engine,
    client_identity,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
)


def assert_keys_agree(peer: Adversary) -> None:
    """The engine's extracted keys are those of the adversary's own key schedule."""
    client, server = (peer.schedule.record_key(secret) for secret in peer.application_secrets)
    ours, theirs = (client, server) if isinstance(peer, ServerAdversary) else (server, client)
    assert isinstance(peer.engine, TlsEngine)
    secrets = peer.engine.extract_secrets()
    assert secrets.tx == TrafficKey(key=ours.key, iv=ours.iv, sequence=0)
    assert secrets.rx == TrafficKey(key=theirs.key, iv=theirs.iv, sequence=0)
    assert secrets.cipher is peer.schedule.suite.ktls
    assert secrets.version == 0x0304


@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, GROUPS)])
def test_honest_server_agrees_with_the_client_engine(suite: str, group: str) -> None:
    peer = ServerAdversary(
        client_engine(mutual_client()), identity(), suite=SUITES_BY_NAME[suite].number, group=group
    )
    retry = group not in ("x25519", "secp256r1")
    verdict = peer.run(peer.script(client_certificate=True, hello_retry=retry))
    assert verdict.completed
    assert peer.order[-3:] == [MessageType.CERTIFICATE, MessageType.CERTIFICATE_VERIFY, MessageType.FINISHED]
    assert_keys_agree(peer)


@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, GROUPS)])
@pytest.mark.parametrize("retry", [False, True])
def test_honest_client_agrees_with_the_server_engine(suite: str, group: str, retry: bool) -> None:
    peer = ClientAdversary(
        server_engine(mutual_server()),
        client_identity(),
        suite=SUITES_BY_NAME[suite].number,
        group=group,
        share_sent=not retry,
    )
    verdict = peer.run(peer.script(certificate=True, hello_retry=retry))
    assert verdict.completed
    assert_keys_agree(peer)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_honest_peers_sign_with_every_key(key_type: KeyType) -> None:
    server = ServerAdversary(client_engine(), identity(key_type))
    assert server.run(server.script()).completed
    client = ClientAdversary(server_engine(mutual_server()), client_identity(key_type))
    assert client.run(client.script(certificate=True)).completed


@pytest.mark.parametrize("fragment", [1, 7, 1000, 2**14])
@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("pad", [0, 100])
def test_how_messages_are_put_into_records_makes_no_difference(
    fragment: int, coalesce: bool, pad: int
) -> None:
    server = ServerAdversary(client_engine(), identity())
    client = ClientAdversary(server_engine(mutual_server()), client_identity())
    for peer, script in ((server, server.script()), (client, client.script(certificate=True))):
        peer.fragment, peer.coalesce, peer.pad = fragment, coalesce, pad
        assert peer.run(script).completed


def test_alter_goes_into_the_transcript_and_is_seen_by_the_engine() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.alter[MessageType.FINISHED] = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    verdict = peer.run(peer.script())
    assert verdict.alert is Alert.DECRYPT_ERROR
    assert verdict.protection is Protection.HANDSHAKE
    assert verdict.level == 2


def test_a_script_stops_where_the_engine_has_failed() -> None:
    peer = ClientAdversary(server_engine())
    # Delivered at the end of a flight: what is behind a failure never reaches the engine.
    verdict = peer.run([sends_raw(b"GET / HTTP/1.0\r\n\r\n"), *peer.script()])
    assert verdict.alert is Alert.UNEXPECTED_MESSAGE
    assert verdict.protection is Protection.NONE
    assert not verdict.completed


def test_scripts_are_edited_by_the_names_of_steps() -> None:
    peer = ServerAdversary(client_engine(), identity())
    script = peer.script()
    names = [step.name for step in script]
    extra = sends(message(MessageType.KEY_UPDATE, b"\0"))

    assert [step.name for step in without(script, "finished")] == [n for n in names if n != "finished"]
    assert before(script, "finished", extra)[names.index("finished")] is extra
    assert after(script, "finished", extra)[names.index("finished") + 1] is extra
    assert instead(script, "finished", extra)[names.index("finished")] is extra
    assert [step.name for step in twice(script, "finished")].count("finished") == 2
    order = [step.name for step in swapped(script, "certificate", "finished")]
    assert order.index("finished") < order.index("certificate")
    with pytest.raises(AssertionError, match="no step"):
        without(script, "no such step")


def test_records_and_alerts_go_out_under_the_current_keys() -> None:
    peer = ServerAdversary(client_engine(), identity())
    verdict = peer.run(after(peer.script(), "encrypted_extensions", sends_alert(Alert.ACCESS_DENIED)))
    assert "access_denied" in verdict.reason
    peer = ServerAdversary(client_engine(), identity())
    verdict = peer.run(after(peer.script(), "encrypted_extensions", sends_record(23, b"early")))
    assert verdict.alert is Alert.UNEXPECTED_MESSAGE
