"""Runs a transcript through the core again, and compares all that comes out of it.

The transcript's inputs (the request, the configuration, keys, randomness, signatures, the peer's bytes, what came from
outside) go into a new `Session`, which tells its steps as the recorded one did.  The two lists of steps are then
compared one by one: every byte sent, every record's content, every event, DONE and the keys for the kernel.  The
datagrams go through `GenlClient`: the request must come out of the recorded answer, and the same DONE must be encoded.

The peer's bytes can be fed as they came, or cut otherwise, which must change nothing but the cuts.

A transcript without secrets can lack the engine's randomness or pre-shared keys.  The handshake can't be computed
again then: `StandIn` says what the transcript says, so that what is around the engine is still run and compared.
`Replay.engine_ran` tells which it was.

What does not fit the transcript is a difference, not an error: the result names the first one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final, TypeVar

from cryptography import x509

from ..lifecycle import Deadlines, InstallKeys
from ..netlink.client import GenlClient
from ..netlink.codec import split_messages_untrusted
from ..netlink.events import Accepted, DoneAnswered, FamilyResolved, NetlinkEvent
from ..netlink.messages import encode_new_family
from ..netlink.spec import Command, MulticastGroup
from ..policy import CLASSICAL, Credentials, KeyExchange, RequestRefused, RoleCredentials
from ..request import (
    CertificateKeys,
    HandshakeRequest,
    InvalidRequest,
    UnanswerableReply,
    parse_request_untrusted,
)
from ..session import TICKET_NOTE, Action, Receive, Send, Session
from ..status import Cause, Failure
from ..steps import (
    Answered,
    Configured,
    Datagram,
    Drew,
    Encapsulated,
    Failed,
    FoundPsk,
    IdentityLoaded,
    Installed,
    Interrupted,
    Interruption,
    LocallyFailed,
    Noted,
    PeerKeyMade,
    PskLoaded,
    PsksLookedUp,
    Received,
    Reported,
    RevocationChecked,
    SecretLogged,
    Sent,
    Signed,
    Started,
    Step,
    Summarized,
    Trace,
)
from ..summary import summarize
from ..tls.certificates import quiet
from ..tls.diagnosis import Case
from ..tls.engine import TlsEngine
from ..tls.parameters import Entropy, Identity, Parameters, PreSharedKey, Signer
from ..tls.truststore import TrustStore
from .standin import StandIn, is_input
from .transcript import TimedStep, Transcript, redact

Cut = Callable[[bytes], Iterable[bytes]]
"""Cuts what a peer said at one go into pieces that are fed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a replay first differs from its transcript.

    Attributes:
        number: The step's number among those that are compared, from 1.
        recorded: What the transcript has there; None behind its end.
        replayed: What the core does now; None if it does nothing more.
        stopped: Why the core could not go on, or None.
    """

    number: int
    recorded: Step | None
    replayed: Step | None
    stopped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of a replay.

    Attributes:
        compared: How many steps were compared and found equal.
        engine_ran: Was the handshake computed again?  It was not where the transcript keeps secrets back.
        difference: The first difference; None if there is none.
    """

    compared: int
    engine_ran: bool
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Did everything come out as it was recorded?"""
        return self.difference is None


def replay(transcript: Transcript, *, cut: Cut | None = None) -> Replay:
    """Run a transcript again.

    Args:
        transcript: What was recorded, perhaps by an older version, or written by anybody.
        cut: How to cut the peer's bytes; None feeds them as they came.
    """
    player = _Player(transcript, cut)
    stopped = player.play()
    expected = [_comparable(step) for step in player.steps if player.compares(step)]
    produced = [_comparable(step) for step in player.produced() if player.compares(step)]
    pairs = list(zip_longest(expected, produced))
    for number, (recorded, replayed) in enumerate(pairs, 1):
        if recorded != replayed:
            found = Difference(number=number, recorded=recorded, replayed=replayed, stopped=stopped)
            return Replay(compared=number - 1, engine_ran=player.engine_ran, difference=found)
    return Replay(compared=len(pairs), engine_ran=player.engine_ran, difference=None)


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """Cut into single bytes."""
    return (data[at : at + 1] for at in range(len(data)))


def whole(data: bytes) -> Iterable[bytes]:
    """Don't cut at all."""
    return (data,)


def cut_at(*places: int) -> Cut:
    """Cut at these places, counted from the beginning of each thing that is said."""

    def cut(data: bytes) -> Iterable[bytes]:
        inside = sorted({place for place in places if 0 < place < len(data)})
        return (data[start:end] for start, end in zip([0, *inside], [*inside, len(data)], strict=True))

    return cut


# What is compared


def _comparable(step: Step) -> Step:
    """Leave out what another run has otherwise: the durations."""
    if not isinstance(step, Summarized):
        return step
    return Summarized(fields={name: value for name, value in step.fields.items() if not name.endswith("_ms")})


def _lacks_secret(step: Step) -> bool:
    match step:
        case Drew(data=None) | Encapsulated(secret=None) | PskLoaded(found=FoundPsk(secret=None)):
            return True
        case PsksLookedUp(found=found):
            return any(key.secret is None for key in found)
        case _:
            return False


class _Player:
    """Puts a transcript's inputs into a session."""

    def __init__(self, transcript: Transcript, cut: Cut | None) -> None:
        self.steps = [timed.step for timed in transcript.steps]
        self.engine_ran = not any(map(_lacks_secret, self.steps))
        self._secrets = transcript.secrets
        self._cut = cut if self.engine_ran else None
        self._produced: list[Step] = []
        self._source = _Source(self.steps)
        self._stand_in = StandIn(self._tell)
        self._netlink = _Netlink(self.steps)
        self._action: Action | None = None

    def compares(self, step: Step) -> bool:
        """Is this step compared?  How bytes came in is not, where they are cut otherwise."""
        if self._is_beyond_stand_in(step):
            return False
        return self._cut is None or not isinstance(step, Received)

    def _is_beyond_stand_in(self, step: Step) -> bool:
        """Does it take the keys, which are not there?"""
        return step == Noted(text=TICKET_NOTE) and not self.engine_ran

    def produced(self) -> list[Step]:
        """What the core told, with as many secrets as the transcript has."""
        if self._secrets:
            return self._produced
        return [timed.step for timed in redact(TimedStep(at=0.0, step=step) for step in self._produced)]

    def play(self) -> str | None:
        """Put everything in; return why it could not go on, if it could not."""
        try:
            session = self._session()
            at = 0
            while at < len(self.steps):
                at = self._put_in(session, at)
                self._check_answer(at)
        except Exception as error:  # a transcript that anybody wrote asks for anything, in any order
            return f"{type(error).__name__}: {error}"
        return None

    def _session(self) -> Session:
        started = next((step for step in self.steps if isinstance(step, Started)), None)
        return Session(
            self._netlink.asked_for(),
            keys=self._source,
            entropy=self._source.entropy,
            now=0.0,
            deadlines=Deadlines() if started is None else started.deadlines,
            trace=self._tell,
            make_engine=self._engine if self.engine_ran else self._stand_in.engine,
        )

    def _engine(self, parameters: Parameters, entropy: Entropy, trace: Trace) -> TlsEngine:
        return TlsEngine(parameters, entropy=entropy, trace=trace, encapsulate=self._source.encapsulate)

    def _tell(self, step: Step) -> None:
        if self._secrets or not isinstance(step, SecretLogged):
            self._produced.append(step)

    def _put_in(self, session: Session, at: int) -> int:
        """Put one step in, if it is an input; return the number of the next one."""
        step = self.steps[at]
        self._stand_in.goes_on_with(self.steps[at + 1 :])
        match step:
            case Datagram():
                self._tell(self._netlink.replayed(step))
            case Received() if self._cut is not None:
                return self._feed(session, at, self._cut)
            case Noted() if self._is_beyond_stand_in(step):
                session.notes.append(step.text)
            case Noted(text=text) if not self._has_told(at):
                session.note(text)  # The caller's own.
            case Summarized():
                self._tell(Summarized(fields=summarize(session, {})))
            case _:
                self._put_into(session, step)
        return at + 1

    def _has_told(self, at: int) -> bool:
        """Has the session told as many steps as the transcript has up to there?"""
        told = sum(map(self.compares, self._produced))
        return told > sum(map(self.compares, self.steps[:at]))

    def _put_into(self, session: Session, step: Step) -> None:
        match step:
            case Started(peer_address=address, wall_clock=wall_clock):
                credentials = self._source.credentials()
                self._action = session.start(credentials, peer_address=address, wall_clock=wall_clock)
            case Sent():
                self._action = session.sent()
            case Received(data=data):
                self._action = session.received(data)
            case Installed(refusal=str(refusal)):
                self._action = session.install_refused(refusal)
            case Installed(behind=behind):
                self._action = session.installed(behind=behind)
            case Answered(error=None, text=text):
                self._action = session.unanswered(text)
            case Answered(error=int(error), text=text):
                self._action = session.answered(error, text)
            case _:
                self._action = _interrupt(session, step) or self._action

    def _check_answer(self, at: int) -> None:
        """Make sure that what the core wants done now is what was done next."""
        answer = next((step for step in self.steps[at:] if is_input(step)), None)
        wanted = _ANSWERS.get(type(self._action))
        if wanted is None or isinstance(answer, (wanted, Interrupted, LocallyFailed, Failed)):
            return
        there = "ends" if answer is None else f"has {type(answer).__name__}"
        raise ReplayError(f"the core wants {self._action}, and the transcript {there}")

    def _feed(self, session: Session, at: int, cut: Cut) -> int:
        """Put in what the peer said at one go, cut into pieces; return the number of the step behind it."""
        end = next((n for n in range(at, len(self.steps)) if _ends_speech(self.steps[n])), len(self.steps))
        heard = [n for n in range(at, end) if isinstance(self.steps[n], Received)]
        said = [step.data for step in self.steps[at:end] if isinstance(step, Received)]
        pieces = [*cut(b"".join(said)), *(b"" for data in said if not data)]
        for piece in pieces:
            self._action = session.received(piece)
            if not isinstance(self._action, Receive):
                break  # What is left was read at one go with what ended the handshake.
        return heard[-1] + 1


_ANSWERS: Final[Mapping[type, type[Step]]] = {
    Send: Sent,
    Receive: Received,
    InstallKeys: Installed,
}
"""What an action is answered with, if nothing comes between.  (A DONE may be without answer: netlink can be gone.)"""


class ReplayError(Exception):
    """The core did what the transcript has no answer for; never leaves this module."""


def _ends_speech(step: Step) -> bool:
    return is_input(step) and not isinstance(step, Received)


def _interrupt(session: Session, step: Step) -> Action | None:
    """Put in what may come at any time; None for an output."""
    match step:
        case Interrupted(by=Interruption.DEADLINE, after=after):
            # (the subtraction that made `after` may have rounded it down)
            now = max(after, session.request.next_deadline() or 0.0)
            return session.interrupt(Interruption.DEADLINE, now=now)
        case Interrupted(by=by, after=after):
            return session.interrupt(by, now=after)
        case LocallyFailed(failure=failed):
            return session.local_failure(failed)
        case Failed(failure=failed) if failed.cause is Cause.CONNECTION_LOST:
            return session.connection_lost(failed.reason)
        case _:
            return None


# The inputs that the core asks for

_StepT = TypeVar("_StepT")


class _RecordedSigner(Signer):
    """Gives the recorded signatures out, in order."""

    def __init__(self, signatures: Iterator[Signed]) -> None:
        self._signatures = signatures

    def sign(self, data: bytes, hash_name: str) -> bytes:
        del data, hash_name
        return _next(self._signatures, "a signature").signature


class _RecordedRevocation:
    """Gives out what the revocation lists said."""

    def __init__(self, checks: Iterator[RevocationChecked]) -> None:
        self._checks = checks

    def judge(self, case: Case, path: Sequence[x509.Certificate]) -> Failure | None:
        del case, path
        return _next(self._checks, "what the revocation lists say").failure


def _next(steps: Iterator[_StepT], what: str) -> _StepT:
    step = next(steps, None)
    if step is None:
        raise ReplayError(f"the core asks for {what} that was not recorded")
    return step


class _Source:
    """A transcript's keys, configuration and randomness; a `KeySource`."""

    def __init__(self, steps: Sequence[Step]) -> None:
        def recorded(kind: type[_StepT]) -> Iterator[_StepT]:
            return (step for step in steps if isinstance(step, kind))

        self._configured = next(recorded(Configured), None)
        self._signer = _RecordedSigner(recorded(Signed))
        self._draws = recorded(Drew)
        self._encapsulated = recorded(Encapsulated)
        self._identities = recorded(IdentityLoaded)
        self._revocation = list(recorded(RevocationChecked))
        self._psks = recorded(PskLoaded)
        self._lookups = recorded(PsksLookedUp)
        self._peer_keys = recorded(PeerKeyMade)

    def credentials(self) -> Credentials:
        """What the request's role was configured with; the other role is not asked for."""
        configured = self._configured
        if configured is None:
            return Credentials(key_exchange=CLASSICAL)
        role = RoleCredentials(
            trust=_store(configured),
            identity=self._identity(configured),
            revocation=_RecordedRevocation(iter(self._revocation)) if self._revocation else None,
        )
        return Credentials(client=role, server=role, key_exchange=_key_exchange(configured))

    def entropy(self, size: int) -> bytes:
        """Give the next recorded draw out."""
        data = _next(self._draws, "randomness").data or b""
        if len(data) != size:
            raise ReplayError(f"the core asks for {size} bytes of randomness where {len(data)} were recorded")
        return data

    def encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """Give the next recorded encapsulation out."""
        del public_key
        made = _next(self._encapsulated, "an ML-KEM secret")
        return made.secret or b"", made.ciphertext

    def load_identity(self, pair: CertificateKeys) -> Identity:
        """See `KeySource`."""
        del pair
        loaded = _next(self._identities, "a certificate's key")
        _raise(loaded.failure)
        return Identity(chain=loaded.chain, private_key=self._signer, names=loaded.names)

    def load_psk(self, serial: int) -> PreSharedKey:
        """See `KeySource`."""
        del serial
        loaded = _next(self._psks, "a pre-shared key")
        _raise(loaded.failure)
        if loaded.found is None:
            raise ReplayError("a pre-shared key was neither found nor refused")
        return _psk(loaded.found)

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        """See `KeySource`."""
        del identities, only
        looked_up = _next(self._lookups, "a look-up of pre-shared keys")
        return tuple(map(_psk, looked_up.found)), looked_up.notes

    def add_certificate(self, description: str, der: bytes) -> int | None:
        """See `KeySource`."""
        del description, der
        return _next(self._peer_keys, "a key for the peer's certificate").serial

    def _identity(self, configured: Configured) -> Identity | None:
        if configured.identity is None:
            return None
        return Identity(chain=configured.identity, private_key=self._signer, names=configured.names)


def _raise(failed: Failure | None) -> None:
    if failed is not None:
        raise RequestRefused(failed)


def _psk(found: FoundPsk) -> PreSharedKey:
    # A secret that was kept back is never computed with: the engine does not run then.
    secret = b"withheld" if found.secret is None else found.secret
    return PreSharedKey(
        identity=found.identity, secret=secret, hash_name=found.hash_name, serial=found.serial
    )


def _key_exchange(configured: Configured) -> KeyExchange:
    groups, shares = configured.groups, configured.key_shares
    if groups is None or shares is None:
        return CLASSICAL
    return KeyExchange(groups=groups, key_shares=shares, psk_key_shares=shares)


def _store(configured: Configured) -> TrustStore | None:
    if configured.trust is None:
        return None
    with quiet():
        anchors = [x509.load_der_x509_certificate(der) for der in configured.trust]
    return TrustStore(anchors, subjects=configured.authorities)


# Netlink


class _Netlink:
    """Decodes and encodes the datagrams of a request again."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._client: GenlClient | None = None

    def asked_for(self) -> HandshakeRequest | InvalidRequest:
        """What the request is, whether or not it came so far as to be started."""
        started = next((step for step in self._steps if isinstance(step, Started)), None)
        return self._request() if started is None else started.request

    def _request(self) -> HandshakeRequest | InvalidRequest:
        """The request in the kernel's datagram, for one that came to nothing before it was started.

        Raises:
            ReplayError: There is none.
        """
        asked, answer = [step for step in self._steps if isinstance(step, Datagram)][:2]
        (message,) = split_messages_untrusted(asked.data)
        client = _resolved_client(message.message_type, message.sequence)
        client.accept()
        for event in client.receive_datagram_untrusted(answer.data):
            if isinstance(event, Accepted):
                request = parse_request_untrusted(event.reply)
                if not isinstance(request, UnanswerableReply):
                    return request
        raise ReplayError("there is no request to replay")

    def replayed(self, datagram: Datagram) -> Datagram:
        """What the client makes of the exchange that this datagram belongs to."""
        if not datagram.outgoing:
            self._check_answer(datagram.data)
            return datagram
        (message,) = split_messages_untrusted(datagram.data)
        self._client = client = _resolved_client(message.message_type, message.sequence)
        return replace(datagram, data=self._ask(client, message.payload))

    def _ask(self, client: GenlClient, payload: bytes) -> bytes:
        if payload[:1] == bytes([Command.ACCEPT]):
            return client.accept().datagram
        report = self._recorded(Reported)
        sockfd = self.asked_for().sockfd
        return client.done(sockfd=sockfd, status=report.status, remote_auth=report.remote_auth).datagram

    def _check_answer(self, data: bytes) -> None:
        # (an ACCEPT whose question is not recorded was answered too late to be the client's)
        for event in [] if self._client is None else self._client.receive_datagram_untrusted(data):
            self._check_event(event)

    def _check_event(self, event: NetlinkEvent) -> None:
        match event:
            case Accepted(reply=reply):
                if parse_request_untrusted(reply) != self.asked_for():
                    raise ReplayError("the kernel's datagram holds another request")
            case DoneAnswered(error=error):
                if error != self._recorded(Answered).error:
                    raise ReplayError("the kernel's datagram holds another answer to DONE")
            case _:
                raise ReplayError(f"the kernel's datagram is read as {type(event).__name__}")

    def _recorded(self, kind: type[_StepT]) -> _StepT:
        return _next((step for step in self._steps if isinstance(step, kind)), f"a step {kind.__name__}")


def _resolved_client(family_id: int, sequence: int) -> GenlClient:
    """A client that knows the family, and whose next request has this sequence number."""
    client = GenlClient(first_sequence=sequence - 1)
    family = FamilyResolved(family_id=family_id, version=1, groups={MulticastGroup.TLSHD: 1})
    asked = client.resolve_family()
    client.receive_datagram_untrusted(encode_new_family(family, sequence=asked.sequence))
    return client
