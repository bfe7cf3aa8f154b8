"""Requests recorded on the simulated machine, one of each kind: what the tests of captures share."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache

import trio

from ktls_agent.io_trio.simulation.machine import Machine
from ktls_agent.sansio.capture.recording import Recording
from ktls_agent.sansio.capture.transcript import Transcript
from ktls_agent.sansio.netlink.events import CertificateSerials
from ktls_agent.sansio.netlink.spec import Auth
from ktls_agent.sansio.policy import CLASSICAL, HYBRID, Credentials
from ktls_agent.sansio.tls.parameters import ServerPskParameters
from ktls_agent.sansio.tls.revocation import RevocationLists
from tests.io_trio.house import (
    House,
    Peer,
    as_client,
    as_server,
    authority,
    client_certificate,
    client_request,
    full_credentials,
    host_request,
    offering,
    psk,
    running_house,
    server_certificate,
    server_request,
    target_request,
)
from tests.pki import Authority
from tests.tls.revocations import crl, pem

KEY = psk()


async def _client(house: House) -> None:
    consumer, theirs = await house.ask(client_request())
    await Peer().shake_hands(theirs, as_server())
    await consumer.wait()


async def _client_refuses(house: House) -> None:
    consumer, theirs = await house.ask(client_request(peername="other.test"))
    await Peer().shake_hands(theirs, as_server())
    await consumer.wait()


async def _server(house: House) -> None:
    consumer, theirs = await house.ask(server_request())
    await Peer().shake_hands(theirs, as_client(client_certificate()))
    await consumer.wait()


async def _server_with_ml_kem(house: House) -> None:
    consumer, theirs = await house.ask(server_request())
    offer = replace(as_client(), groups=HYBRID.groups, key_shares=HYBRID.key_shares)
    await Peer().shake_hands(theirs, offer)
    await consumer.wait()


async def _server_refuses(house: House) -> None:
    consumer, theirs = await house.ask(server_request())
    await Peer().shake_hands(theirs, as_client(Authority("Unknown").issue(("client.test",))))
    await consumer.wait()


def revoking(*revoked: int) -> Credentials:
    """The usual credentials, with a list that revokes these serials."""
    lists = RevocationLists.from_file(pem(crl(authority(), *revoked)))
    made = full_credentials()
    return replace(
        made,
        client=replace(made.client, revocation=lists),
        server=replace(made.server, revocation=lists),
    )


async def _host(house: House) -> None:
    serial = house.machine.keyring.add_psk(KEY.identity, KEY.secret)
    consumer, theirs = await house.ask(host_request(serial))
    await Peer(psks=(KEY,)).shake_hands(theirs, ServerPskParameters())
    await consumer.wait()


async def _target(house: House) -> None:
    house.machine.keyring.add_psk(KEY.identity, KEY.secret)
    consumer, theirs = await house.ask(target_request())
    await Peer().shake_hands(theirs, offering(KEY))
    await consumer.wait()


async def _unreadable_keys(house: House) -> None:
    pair = CertificateSerials(certificate=404, private_key=405)
    consumer, _ = await house.ask(client_request(Auth.X509, certificates=(pair,)))
    await consumer.wait()


async def _keys_of_the_request(house: House) -> None:
    own = client_certificate()
    pair = CertificateSerials(
        certificate=house.machine.keyring.add(own.chain[0]),
        private_key=house.machine.keyring.add(own.private_key_der()),
    )
    consumer, theirs = await house.ask(client_request(Auth.X509, certificates=(pair,)))
    await Peer().shake_hands(theirs, as_server())
    await consumer.wait()


async def _cancelled(house: House) -> None:
    consumer, _ = await house.ask(client_request())
    await trio.sleep(0.01)
    consumer.hang_up()


async def _invalid(house: House) -> None:
    consumer, _ = await house.ask(server_request(Auth.UNAUTH))
    await consumer.wait()


PLAYS: dict[str, Callable[[House], Awaitable[None]]] = {
    "client": _client,
    "client refuses": _client_refuses,
    "server": _server,
    "server with ML-KEM": _server_with_ml_kem,
    "server without ML-KEM": _server_with_ml_kem,
    "server refuses": _server_refuses,
    "client finds nothing revoked": _client,
    "client finds the server revoked": _client,
    "server finds the client revoked": _server,
    "host": _host,
    "target": _target,
    "unreadable keys": _unreadable_keys,
    "keys of the request": _keys_of_the_request,
    "cancelled": _cancelled,
    "invalid": _invalid,
}


CREDENTIALS: dict[str, Callable[[], Credentials]] = {
    "server without ML-KEM": lambda: replace(full_credentials(), key_exchange=CLASSICAL),
    "client finds nothing revoked": revoking,
    "client finds the server revoked": lambda: revoking(server_certificate().certificate.serial_number),
    "server finds the client revoked": lambda: revoking(client_certificate().certificate.serial_number),
}


@cache
def recording(kind: str) -> Recording:
    """Record one request."""

    async def play() -> Recording:
        async with running_house(
            machine=Machine(), credentials=CREDENTIALS.get(kind, full_credentials)
        ) as house:
            await PLAYS[kind](house)
            await house.finished()
            return house.recordings[0]

    return trio.run(play)


@cache
def transcript(kind: str, *, secrets: bool = True) -> Transcript:
    """Record one request, and make its transcript."""
    return recording(kind).transcript(agent="0.1.0", secrets=secrets)
