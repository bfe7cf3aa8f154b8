"""Transcripts of requests, with the bytes of OpenSSL's handshakes."""

import datetime as dt
from collections.abc import Iterable

from ktls_agent.sansio.capture.keylog import parse_keylog_untrusted
from ktls_agent.sansio.capture.transcript import TimedStep, Transcript
from ktls_agent.sansio.lifecycle import Deadlines
from ktls_agent.sansio.netlink.events import AcceptReply
from ktls_agent.sansio.netlink.messages import encode_accept, encode_accept_reply, encode_done
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import ClientAnon, HandshakeRequest, InvalidRequest
from ktls_agent.sansio.status import Failure
from ktls_agent.sansio.steps import (
    Closed,
    Completed,
    Datagram,
    Failed,
    Received,
    Reported,
    SecretLogged,
    Sent,
    Started,
    Step,
)
from ktls_agent.sansio.tls.parameters import HandshakeCompleted
from tests.capture.openssl import Overheard
from tests.pki import NOW

FAMILY = 28
REQUEST = ClientAnon(sockfd=13, peername="server.test")
RESULT = HandshakeCompleted(
    cipher_suite="AES_256_GCM", group="x25519", alpn=None, peer=None, server_name="server.test"
)


def transcript(*steps: Step, secrets: bool = True) -> Transcript:
    """A transcript whose steps are a millisecond apart."""
    return Transcript(
        agent="0.1.0",
        recorded=dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC),
        secrets=secrets,
        steps=tuple(TimedStep(at=number / 1000, step=step) for number, step in enumerate(steps)),
    )


def began(
    request: HandshakeRequest | InvalidRequest = REQUEST, *, peer: str | None = "192.0.2.20"
) -> list[Step]:
    reply = AcceptReply(
        sockfd=13, message_type=MessageType.CLIENTHELLO, auth_mode=Auth.UNAUTH, peername="server.test"
    )
    return [
        Datagram(outgoing=True, data=encode_accept(family_id=FAMILY, sequence=3)),
        Datagram(outgoing=False, data=encode_accept_reply(reply, family_id=FAMILY, sequence=3)),
        Started(request=request, peer_address=peer, wall_clock=NOW, deadlines=Deadlines()),
    ]


def talked(heard: Overheard, *, as_client: bool = True) -> list[Step]:
    """The bytes, as one side saw them."""
    return [
        Sent(data=data) if by_client is as_client else Received(data=data) for by_client, data in heard.turns
    ]


def secrets_of(heard: Overheard) -> list[Step]:
    log = parse_keylog_untrusted(heard.keylog)
    return [
        SecretLogged(label=label, client_random=random, secret=secret)
        for (random, label), secret in log.secrets.items()
    ]


def ended(status: int = 0) -> list[Step]:
    return [
        Reported(status=status, remote_auth=()),
        Datagram(outgoing=True, data=encode_done(family_id=FAMILY, sequence=4, status=status, sockfd=13)),
        Closed(),
    ]


def good(heard: Overheard, *, secrets: bool = True) -> Transcript:
    steps: Iterable[Step] = secrets_of(heard) if secrets else []
    return transcript(*began(), *steps, *talked(heard), Completed(result=RESULT), *ended(), secrets=secrets)


def refused(failure: Failure, *steps: Step) -> Transcript:
    return transcript(*began(), *steps, Failed(failure=failure), *ended(failure.status))
