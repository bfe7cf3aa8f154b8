"""Which identity and trust each request gets, and what becomes of pre-shared keys."""

import errno
from dataclasses import replace

import pytest

from ktls_agent.sansio.policy import (
    CLASSICAL,
    DEFAULT_KEY_EXCHANGE,
    HYBRID,
    MAX_KEYS_TOLD,
    Credentials,
    KeyExchange,
    RequestRefused,
    RoleCredentials,
    check_offered_untrusted,
    choose_parameters,
    make_psk_untrusted,
    psk_unreadable,
    server_name_of,
    tell_failures,
)
from ktls_agent.sansio.request import (
    CertificateKeys,
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.tls.parameters import (
    GROUPS,
    KEY_SHARES,
    ClientParameters,
    ClientPskParameters,
    Identity,
    Parameters,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
)
from tests.io_trio.house import authority, client_certificate, full_credentials, server_certificate
from tests.pki import NOW

KEYS = CertificateKeys(certificate=1, private_key=2)
MORE_KEYS = CertificateKeys(certificate=3, private_key=4)


def from_keyring(pair: CertificateKeys) -> Identity:
    return (client_certificate() if pair == KEYS else server_certificate()).identity()


SHA256_NAME = b"NVMe0R01 host sub"
SHA384_NAME = b"NVMe0R02 host sub"
PSKS = {
    10: (SHA384_NAME, b"\2" * 48),
    11: (SHA256_NAME, b"\1" * 32),
    12: (SHA256_NAME, b"\3" * 32),  # the same identity as 11
    13: (b"\xffother", b"\4" * 20),
    20: (SHA256_NAME, b"\1" * 48),
    21: (b"NVMe7R01 host sub", b"\1" * 32),
}
PSK_FAULTS = {
    30: errno.ENOKEY,
    31: errno.EKEYEXPIRED,
    32: errno.EKEYREVOKED,
    33: errno.EACCES,
    34: errno.EPERM,
    35: errno.EOPNOTSUPP,
    36: errno.EINTR,
}


def psk_from_keyring(serial: int) -> PreSharedKey:
    if serial in PSK_FAULTS:
        raise psk_unreadable(PSK_FAULTS[serial], f"The key {serial} is bad.")
    return make_psk_untrusted(serial, *PSKS[serial])


def choose(
    request: HandshakeRequest,
    credentials: Credentials | None = None,
    address: str | None = "192.0.2.1",
    notes: list[str] | None = None,
) -> Parameters:
    return choose_parameters(
        request,
        credentials or full_credentials(),
        load_keys=from_keyring,
        load_psk=psk_from_keyring,
        note=([] if notes is None else notes).append,
        peer_address=address,
        now=NOW,
    )


def client(request: HandshakeRequest, address: str | None = "192.0.2.1") -> ClientParameters:
    chosen = choose(request, address=address)
    assert isinstance(chosen, ClientParameters)
    return chosen


def test_an_anonymous_client_presents_nothing() -> None:
    assert client(ClientAnon(sockfd=3, peername="server.test")).identity is None


def test_a_client_presents_its_files_unless_the_request_names_keys() -> None:
    files = client(ClientX509(sockfd=3, peername="server.test")).identity
    assert files is not None
    assert files.chain == client_certificate().chain
    keys = client(ClientX509(sockfd=3, peername="server.test", certificates=(MORE_KEYS, KEYS))).identity
    assert keys is not None
    assert keys.chain == server_certificate().chain


def test_a_server_presents_its_files_unless_the_request_names_keys() -> None:
    files = choose(ServerX509(sockfd=3))
    assert isinstance(files, ServerParameters)
    assert [identity.chain for identity in files.identities] == [server_certificate().chain]
    keys = choose(ServerX509(sockfd=3, certificates=(KEYS, MORE_KEYS)))
    assert isinstance(keys, ServerParameters)
    assert [identity.chain for identity in keys.identities] == [
        client_certificate().chain,
        server_certificate().chain,
    ]


def test_a_server_asks_for_a_certificate_and_names_its_authorities() -> None:
    chosen = choose(ServerX509(sockfd=3))
    assert isinstance(chosen, ServerParameters)
    assert chosen.verifier is not None
    assert not chosen.require_client_certificate
    assert chosen.certificate_authorities == (authority().certificate.subject.public_bytes(),)


def test_a_server_without_trust_store_asks_for_no_certificate() -> None:
    identity = server_certificate().identity()
    chosen = choose(ServerX509(sockfd=3), Credentials(server=RoleCredentials(identity=identity)))
    assert isinstance(chosen, ServerParameters)
    assert chosen.verifier is None


@pytest.mark.parametrize(
    ("peername", "address", "name", "sni"),
    [
        ("server.test", "192.0.2.1", "server.test", "server.test"),
        ("server.test.", "192.0.2.1", "server.test.", "server.test"),
        (None, "192.0.2.1", "192.0.2.1", None),
        ("192.0.2.7", "192.0.2.1", "192.0.2.7", None),
        ("fe80::1%eth0", None, "fe80::1%eth0", None),
        ("sérver.test", None, "sérver.test", None),
    ],
)
def test_names_the_server(peername: str | None, address: str | None, name: str, sni: str | None) -> None:
    request = ClientAnon(sockfd=3, peername=peername)
    assert server_name_of(request, address) == name
    assert client(request, address).server_name == sni


def test_a_server_without_any_name_is_refused() -> None:
    with pytest.raises(RequestRefused) as caught:
        choose(ClientAnon(sockfd=3), address=None)
    assert caught.value.failure.cause is Cause.CONNECTION_LOST


# Pre-shared keys


def offer(*serials: int) -> tuple[tuple[PreSharedKey, ...], list[str]]:
    """The keys that a client offers, and the notes."""
    notes: list[str] = []
    chosen = choose(ClientPsk(sockfd=3, peer_identities=serials), Credentials(), None, notes)
    assert isinstance(chosen, ClientPskParameters)
    assert (chosen.alpn, chosen.server_name, chosen.allow_psk_ke) == ((), None, False)
    return chosen.keys, notes


def test_a_client_offers_every_key_in_order() -> None:
    keys, notes = offer(10, 11, 13)
    assert [(key.identity, key.secret, key.hash_name) for key in keys] == [
        (SHA384_NAME, b"\2" * 48, "sha384"),
        (SHA256_NAME, b"\1" * 32, "sha256"),
        (b"\xffother", b"\4" * 20, "sha256"),
    ]
    assert notes == []


def test_of_two_keys_with_one_identity_the_first_is_offered() -> None:
    keys, _ = offer(11, 12)
    assert [key.secret for key in keys] == [b"\1" * 32]


def test_a_key_that_can_not_be_used_is_passed_over_with_a_note() -> None:
    keys, notes = offer(31, 20, 11)
    assert [key.identity for key in keys] == [SHA256_NAME]
    assert notes == [
        "The key 31 is bad.",
        (
            "The key 20 (NVMe0R01 host sub) can't be used: its secret has 48 bytes, but its identity is for sha256, "
            "which takes 32."
        ),
    ]


@pytest.mark.parametrize(
    ("serials", "status", "cause"),
    [
        ((30,), errno.EACCES, Cause.PSK_UNAVAILABLE),
        ((31,), errno.EACCES, Cause.PSK_UNAVAILABLE),
        ((33,), errno.EACCES, Cause.PSK_UNAVAILABLE),
        ((34,), errno.EACCES, Cause.PSK_UNAVAILABLE),
        ((36,), errno.EACCES, Cause.PSK_UNAVAILABLE),
        ((32,), errno.ENOKEY, Cause.PSK_UNUSABLE),
        ((35,), errno.ENOKEY, Cause.PSK_UNUSABLE),
        ((20,), errno.ENOKEY, Cause.PSK_UNUSABLE),
        ((21,), errno.ENOKEY, Cause.PSK_UNUSABLE),
        ((32, 31), errno.EACCES, Cause.PSK_UNAVAILABLE),  # one of them may be mended
    ],
)
def test_a_client_without_any_usable_key_is_refused(
    serials: tuple[int, ...], status: int, cause: Cause
) -> None:
    with pytest.raises(RequestRefused) as caught:
        offer(*serials)
    failed = caught.value.failure
    assert (failed.cause, failed.status) == (cause, status)
    assert all(f"The key {serial} " in failed.reason for serial in serials)


def test_a_server_waits_for_what_the_client_offers() -> None:
    chosen = choose(ServerPsk(sockfd=3), Credentials())
    assert chosen == ServerPskParameters(groups=HYBRID.groups)
    assert isinstance(chosen, ServerPskParameters)
    assert (chosen.alpn, chosen.allow_psk_ke) == ((), False)


@pytest.mark.parametrize("identity", [SHA256_NAME, b"anything", b"\xff\0"])
def test_an_offered_identity_is_looked_for(identity: bytes) -> None:
    check_offered_untrusted(identity)


def test_a_malformed_nvme_identity_is_not_looked_for() -> None:
    with pytest.raises(RequestRefused) as caught:
        check_offered_untrusted(b"NVMe9R01 host\n sub")
    assert caught.value.failure.cause is Cause.UNKNOWN_PSK
    assert caught.value.failure.reason == (
        r"The client offers NVMe9R01 host\n sub, which is refused: its identity is of version 9; 0 and 1 are known."
    )


@pytest.mark.parametrize("count", range(MAX_KEYS_TOLD + 1))
def test_tells_of_a_few_unusable_keys(count: int) -> None:
    sentences = [f"Sentence {number}." for number in range(count)]
    assert tell_failures([failure(Cause.PSK_UNUSABLE, sentence) for sentence in sentences]) == sentences


def test_counts_the_unusable_keys_of_which_it_does_not_tell() -> None:
    told = tell_failures([failure(Cause.PSK_UNUSABLE, "Bad.")] * (MAX_KEYS_TOLD + 3))
    assert told == ["Bad."] * MAX_KEYS_TOLD + ["So it is with 3 more."]


# Key exchange


@pytest.mark.parametrize(
    ("exchange", "groups", "shares"),
    [
        (
            DEFAULT_KEY_EXCHANGE,
            ("x25519mlkem768", "secp256r1mlkem768", *GROUPS),
            ("x25519mlkem768", "x25519"),
        ),
        (CLASSICAL, GROUPS, KEY_SHARES),
    ],
    ids=["by default", "without ML-KEM"],
)
def test_every_handshake_has_the_same_groups(
    exchange: KeyExchange, groups: tuple[str, ...], shares: tuple[str, ...]
) -> None:
    credentials = replace(full_credentials(), key_exchange=exchange)
    client = choose(ClientAnon(sockfd=3, peername="server.test"), credentials)
    assert isinstance(client, ClientParameters)
    assert (client.groups, client.key_shares) == (groups, shares)
    server = choose(ServerX509(sockfd=3), credentials)
    assert isinstance(server, ServerParameters)
    assert server.groups == groups
    target = choose(ServerPsk(sockfd=3), credentials)
    assert isinstance(target, ServerPskParameters)
    assert target.groups == groups
    host = choose(ClientPsk(sockfd=3, peer_identities=(11,)), credentials)
    assert isinstance(host, ClientPskParameters)
    assert (host.groups, host.key_shares) == (groups, exchange.psk_key_shares)
