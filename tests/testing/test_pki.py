"""The authority of tests: its certificates convince an engine, and are the same in each run."""

import datetime as dt
import os

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.testing.pair import ConnectionPair
from ktls_agent.sansio.testing.pki import NOW, Authority, Issued
from ktls_agent.sansio.tls.parameters import ClientParameters, ServerParameters

SERVER, CLIENT = "server.test", "client.test"


def shake_hands(trusted: Authority, server: Issued, client: Issued) -> ConnectionPair:
    pair = ConnectionPair(
        ClientParameters(
            verifier=trusted.server_verifier(SERVER), server_name=SERVER, identity=client.identity()
        ),
        ServerParameters(
            identities=(server.identity(),),
            verifier=trusted.client_verifier(),
            require_client_certificate=True,
        ),
    )
    pair.run()
    return pair


def test_both_sides_accept_what_the_authority_issued() -> None:
    authority = Authority()
    pair = shake_hands(authority, authority.issue(SERVER), authority.issue(CLIENT))
    server, client = pair.client.completed.peer, pair.server.completed.peer
    assert server is not None
    assert client is not None
    assert (server.names, client.subject, server.issuer) == (
        ("DNS:server.test",),
        "CN=client.test",
        "CN=Test CA",
    )


def test_an_expired_certificate_is_refused() -> None:
    authority = Authority()
    pair = shake_hands(authority, authority.issue(SERVER, expired=True), authority.issue(CLIENT))
    assert pair.client.failure.cause is Cause.CERTIFICATE_EXPIRED


def test_a_certificate_of_another_authority_is_refused() -> None:
    authority, other = Authority(), Authority("Other CA")
    pair = shake_hands(authority, authority.issue(SERVER), other.issue(CLIENT))
    assert pair.server.failure.cause is Cause.UNKNOWN_CA


def test_a_certificate_for_another_name_is_refused() -> None:
    authority = Authority()
    pair = shake_hands(authority, authority.issue("other.test"), authority.issue(CLIENT))
    assert pair.client.failure.cause is Cause.NAME_MISMATCH


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_the_same_name_gives_the_same_keys_and_certificates(encoding: Encoding) -> None:
    one, again, other = (Authority(name).issue(SERVER) for name in ("CA", "CA", "Other CA"))
    assert one.certificate_bytes(encoding) == again.certificate_bytes(encoding)
    assert one.private_key_bytes(encoding) == again.private_key_bytes(encoding)
    assert one.private_key_bytes(encoding) != other.private_key_bytes(encoding)


def test_every_certificate_has_its_own_key_and_serial_number() -> None:
    authority = Authority()
    one, other = authority.issue(SERVER), authority.issue(SERVER)
    assert one.certificate.serial_number != other.certificate.serial_number
    assert one.private_key_bytes(Encoding.DER) != other.private_key_bytes(Encoding.DER)


def test_real_entropy_and_another_time_can_be_given() -> None:
    later = NOW + dt.timedelta(days=1000)
    one, other = (Authority(now=later, entropy=os.urandom) for _ in range(2))
    assert one.certificate != other.certificate
    pair = shake_hands(one, one.issue(SERVER), one.issue(CLIENT))
    assert pair.client.completed.peer
    assert pair.client.completed.peer.not_after == later + dt.timedelta(days=1)


def test_no_key_is_in_a_repr() -> None:
    assert "key" not in repr(Authority().issue(SERVER))
