"""What the kernel may ask for, and what of it is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import (
    MAX_KEY_SERIALS,
    MAX_PEERNAME_LENGTH,
    CertificateKeys,
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
    UnanswerableReply,
    parse_request_untrusted,
)

CLIENT, SERVER = MessageType.CLIENTHELLO, MessageType.SERVERHELLO
UNAUTH, PSK, X509 = Auth.UNAUTH, Auth.PSK, Auth.X509

ANON = AcceptReply(sockfd=7, message_type=CLIENT, auth_mode=UNAUTH, peername="server.example")
MTLS = AcceptReply(
    sockfd=7,
    message_type=CLIENT,
    auth_mode=X509,
    peername="server.example",
    certificates=(CertificateSerials(certificate=11, private_key=12),),
)
NFSD = AcceptReply(sockfd=8, message_type=SERVER, auth_mode=X509)
NVME = AcceptReply(
    sockfd=9, message_type=CLIENT, auth_mode=PSK, timeout_ms=10_000, peer_identities=(21,), keyring=31
)
NVMET = AcceptReply(
    sockfd=9, message_type=SERVER, auth_mode=PSK, timeout_ms=10_000, peer_identities=(0,), keyring=31
)


@pytest.mark.parametrize(
    ("reply", "request_"),
    [
        pytest.param(ANON, ClientAnon(sockfd=7, peername="server.example"), id="mount -o xprtsec=tls"),
        pytest.param(
            MTLS,
            ClientX509(
                sockfd=7,
                peername="server.example",
                certificates=(CertificateKeys(certificate=11, private_key=12),),
            ),
            id="mount -o xprtsec=mtls,cert_serial=,privkey_serial=",
        ),
        pytest.param(
            replace(MTLS, certificates=()),
            ClientX509(sockfd=7, peername="server.example"),
            id="mount -o xprtsec=mtls",
        ),
        pytest.param(NFSD, ServerX509(sockfd=8), id="nfsd"),
        pytest.param(
            NVME,
            ClientPsk(sockfd=9, timeout=10.0, keyring=31, peer_identities=(21,)),
            id="nvme connect --tls",
        ),
        pytest.param(NVMET, ServerPsk(sockfd=9, timeout=10.0, keyring=31), id="nvmet"),
        pytest.param(
            replace(NVMET, peer_identities=(22, 23)),
            ServerPsk(sockfd=9, timeout=10.0, keyring=31, peer_identities=(22, 23)),
            id="a server told its keys",
        ),
    ],
)
def test_parses_what_the_kernels_consumers_ask(reply: AcceptReply, request_: HandshakeRequest) -> None:
    assert parse_request_untrusted(reply) == request_


def test_takes_descriptor_0() -> None:
    assert parse_request_untrusted(replace(NFSD, sockfd=0)) == ServerX509(sockfd=0)


@pytest.mark.parametrize("peername", [None, ""])
def test_an_empty_peername_is_none(peername: str | None) -> None:
    assert parse_request_untrusted(replace(ANON, peername=peername)) == ClientAnon(sockfd=7)


@pytest.mark.parametrize("peername", ["bücher.example", "fe80::1%eth0", "/run/rpcbind.sock", "two words"])
def test_any_printable_peername_is_kept_as_it_is(peername: str) -> None:
    assert parse_request_untrusted(replace(ANON, peername=peername)) == ClientAnon(
        sockfd=7, peername=peername
    )


def test_a_timeout_is_in_seconds() -> None:
    assert parse_request_untrusted(replace(NFSD, timeout_ms=1)) == ServerX509(sockfd=8, timeout=0.001)


def test_a_keyring_of_0_is_none() -> None:
    assert parse_request_untrusted(replace(NFSD, keyring=0)) == ServerX509(sockfd=8)


@pytest.mark.parametrize(("certificate", "private_key"), [(0, 0), (None, None), (0, None), (None, 0)])
def test_serials_of_0_leave_the_choice_to_the_agent(certificate: int | None, private_key: int | None) -> None:
    pair = CertificateSerials(certificate=certificate, private_key=private_key)
    assert parse_request_untrusted(replace(NFSD, certificates=(pair,))) == ServerX509(sockfd=8)


def test_several_certificates_keep_their_order() -> None:
    pairs = tuple(CertificateSerials(certificate=n, private_key=n + 1) for n in (5, 3))
    request = parse_request_untrusted(replace(NFSD, certificates=pairs))
    assert isinstance(request, ServerX509)
    assert [pair.certificate for pair in request.certificates] == [5, 3]


def test_a_psk_clients_zero_identities_are_left_out() -> None:
    request = parse_request_untrusted(replace(NVME, peer_identities=(0, 21, 0)))
    assert isinstance(request, ClientPsk)
    assert request.peer_identities == (21,)


def test_unknown_attributes_of_a_newer_kernel_are_ignored() -> None:
    assert parse_request_untrusted(replace(NFSD, unknown=((77, b"new"),))) == ServerX509(sockfd=8)


def _pair(certificate: int | None, private_key: int | None) -> tuple[CertificateSerials, ...]:
    return (CertificateSerials(certificate=certificate, private_key=private_key),)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(replace(ANON, message_type=None), "no MESSAGE_TYPE", id="no message type"),
        pytest.param(replace(ANON, message_type=0), "MESSAGE_TYPE UNSPEC", id="message type unspec"),
        pytest.param(replace(ANON, message_type=3), "unknown MESSAGE_TYPE 3", id="unknown message type"),
        pytest.param(replace(ANON, auth_mode=None), "no AUTH_MODE", id="no auth mode"),
        pytest.param(replace(ANON, auth_mode=0), "AUTH_MODE UNSPEC", id="client unspec"),
        pytest.param(replace(NFSD, auth_mode=0), "AUTH_MODE UNSPEC", id="server unspec"),
        pytest.param(replace(ANON, auth_mode=4), "unknown AUTH_MODE 4", id="unknown auth mode"),
        pytest.param(
            replace(NFSD, auth_mode=UNAUTH), "SERVERHELLO with AUTH_MODE UNAUTH", id="server unauth"
        ),
        pytest.param(replace(NVME, peer_identities=()), "no PEER_IDENTITY", id="psk client without identity"),
        pytest.param(
            replace(NVME, peer_identities=(0,)), "no PEER_IDENTITY", id="psk client with identity 0"
        ),
        pytest.param(replace(MTLS, certificates=_pair(11, 0)), "certificate 11 without", id="no private key"),
        pytest.param(
            replace(MTLS, certificates=_pair(11, None)), "certificate 11 without", id="key left out"
        ),
        pytest.param(replace(MTLS, certificates=_pair(0, 12)), "private key 12 without", id="no certificate"),
        pytest.param(
            replace(MTLS, certificates=_pair(-3, 12)), "certificate -3 is not", id="a keyring's alias"
        ),
        pytest.param(replace(MTLS, certificates=_pair(11, -1)), "private key -1 is not", id="key's alias"),
        pytest.param(
            replace(NVME, peer_identities=(2**31,)), "PEER_IDENTITY 2147483648 is not", id="big serial"
        ),
        pytest.param(replace(NVME, keyring=2**32 - 1), "KEYRING 4294967295 is not", id="big keyring"),
        pytest.param(replace(MTLS, auth_mode=UNAUTH), "CERTIFICATE, but", id="certificate for unauth"),
        pytest.param(
            replace(NVME, certificates=_pair(1, 2)),
            "CERTIFICATE, but its AUTH_MODE is PSK",
            id="certificate for psk",
        ),
        pytest.param(replace(NFSD, peer_identities=(21,)), "PEER_IDENTITY, but", id="identity for x509"),
        pytest.param(replace(NVME, timeout_ms=0), "TIMEOUT of 0 ms", id="no time at all"),
        pytest.param(replace(ANON, peername="host\nname"), "not printable", id="line feed in the name"),
        pytest.param(replace(ANON, peername="host\0"), "not printable", id="NUL in the name"),
        pytest.param(replace(ANON, peername="host\udcff"), "not printable", id="name that is not UTF-8"),
        pytest.param(
            replace(ANON, peername="a" * (MAX_PEERNAME_LENGTH + 1)),
            "longer than 255 characters",
            id="long name",
        ),
        pytest.param(
            replace(NVME, peer_identities=(1,) * (MAX_KEY_SERIALS + 1)),
            "more than 64 PEER",
            id="many identities",
        ),
        pytest.param(
            replace(MTLS, certificates=_pair(1, 2) * (MAX_KEY_SERIALS + 1)),
            "more than 64 CERT",
            id="many pairs",
        ),
        pytest.param(
            replace(NFSD, defect="TIMEOUT has 3 bytes instead of 4"),
            "malformed: TIMEOUT has 3",
            id="malformed",
        ),
    ],
)
def test_what_is_incomplete_or_contradictory_keeps_its_descriptor(reply: AcceptReply, reason: str) -> None:
    request = parse_request_untrusted(reply)
    assert isinstance(request, InvalidRequest)
    assert request.sockfd == reply.sockfd
    assert reason in request.reason
    assert request.reason.endswith(".")
    request.reason.encode("ascii")  # so any log takes it


def test_bounds_are_inclusive() -> None:
    assert isinstance(parse_request_untrusted(replace(ANON, peername="a" * MAX_PEERNAME_LENGTH)), ClientAnon)
    many = replace(NVME, peer_identities=(1,) * MAX_KEY_SERIALS)
    assert isinstance(parse_request_untrusted(many), ClientPsk)
    assert isinstance(parse_request_untrusted(replace(NFSD, keyring=2**31 - 1)), ServerX509)


@pytest.mark.parametrize("sockfd", [None, -1])
def test_a_reply_without_a_descriptor_can_only_be_logged(sockfd: int | None) -> None:
    assert isinstance(parse_request_untrusted(replace(NFSD, sockfd=sockfd)), UnanswerableReply)


def test_a_malformed_descriptor_is_named() -> None:
    reply = replace(NFSD, sockfd=None, defect="SOCKFD has 3 bytes")
    reason = "The kernel's ACCEPT reply carries no descriptor (SOCKFD has 3 bytes)."
    assert parse_request_untrusted(reply) == UnanswerableReply(reason=reason)


def _maybe(values: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.none() | values


u32 = st.integers(0, 3) | st.integers(0, 2**32 - 1)
s32 = st.integers(-1, 3) | st.integers(-(2**31), 2**31 - 1)
replies = st.builds(
    AcceptReply,
    sockfd=_maybe(s32),
    message_type=_maybe(u32),
    timeout_ms=_maybe(u32),
    auth_mode=_maybe(u32),
    peer_identities=st.lists(u32, max_size=3).map(tuple),
    certificates=st.lists(
        st.builds(CertificateSerials, certificate=_maybe(s32), private_key=_maybe(s32)), max_size=3
    ).map(tuple),
    peername=st.none() | st.text(st.characters(), max_size=300),
    keyring=_maybe(u32),
    defect=st.none() | st.just("bad"),
)


@given(replies)
def test_every_reply_is_judged_and_no_descriptor_is_lost(reply: AcceptReply) -> None:
    request = parse_request_untrusted(reply)
    if isinstance(request, UnanswerableReply):
        assert reply.sockfd is None or reply.sockfd < 0
    else:
        assert request.sockfd == reply.sockfd
    if isinstance(request, ClientX509 | ServerX509):
        assert all(pair.certificate > 0 and pair.private_key > 0 for pair in request.certificates)
    if isinstance(request, ClientPsk):
        assert request.peer_identities
        assert all(identity > 0 for identity in request.peer_identities)
