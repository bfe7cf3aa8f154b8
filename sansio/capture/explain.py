"""Explains a transcript: what happened between kernel, agent and peer, how it ended, and what to do about it.

Each step makes a row of the ladder, or none.  The peer's side is drawn from the contents of records (`Plaintext`), put
together to handshake messages; what came in and was not understood is drawn as bytes.  The kernel's side is drawn
from the netlink datagrams; where they are missing, as in a capture of TLS alone or of a request that ended before DONE
was sent, from what the session said.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, assert_never

from ..request import ClientPsk, ClientX509, HandshakeRequest, InvalidRequest, ServerPsk, ServerX509
from ..status import Failure
from ..steps import (
    Answered,
    Closed,
    Completed,
    Configured,
    Datagram,
    Drew,
    Encapsulated,
    Exported,
    Failed,
    IdentityLoaded,
    Installed,
    Interrupted,
    Interruption,
    LocallyFailed,
    Noted,
    PeerKeyMade,
    Plaintext,
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
)
from ..summary import ROLES, status_name
from ..tls.certificates import printable
from ..tls.diagnosis import MAX_REASON
from ..tls.psk import shown_identity
from ..tls.records import ContentType
from .datagrams import dissect_datagram_untrusted, serial_text
from .explanation import WHY, CertificateFacts, Explanation, Party, Row, Tone
from .facts import (
    certificate_facts_untrusted,
    failure_of,
    notes_of,
    phases_of,
    request_facts,
    sentence,
    tls_facts,
    verdict_of,
)
from .messages import (
    Detail,
    Dissection,
    MessageStream,
    detail,
    dissect_bytes_untrusted,
    dissect_message_untrusted,
    dissect_record_untrusted,
    subject_untrusted,
)
from .transcript import Transcript

_KernelStep = Datagram | Started | Reported | Answered | Installed | Closed
_PeerStep = Plaintext | Received | Sent
_KeyStep = Configured | IdentityLoaded | PskLoaded | PsksLookedUp | PeerKeyMade
_OutcomeStep = Completed | Failed | LocallyFailed | Interrupted | Noted
_SilentStep = Drew | Signed | SecretLogged | Exported | Summarized


def explain(transcript: Transcript) -> Explanation:
    """Explain a transcript, whatever is in it."""
    ladder = _Ladder(transcript)
    for timed in transcript.steps:
        ladder.take(timed.at, timed.step)
    ladder.finish()
    return Explanation(
        verdict=verdict_of(transcript),
        request=request_facts(transcript),
        tls=tls_facts(transcript, ladder.messages),
        phases=phases_of(transcript),
        certificates=tuple(_certificates(transcript, ladder)),
        notes=notes_of(transcript),
        ladder=tuple(ladder.rows),
    )


def _certificates(transcript: Transcript, ladder: "_Ladder") -> Iterator[CertificateFacts]:
    started = transcript.of_type(Started)
    now = started[0].wall_clock if started else None
    parties: tuple[Party, ...] = ("peer", "agent")
    for party in parties:
        yield from certificate_facts_untrusted(ladder.chains.get(party, ()), party, now)


class _Ladder:
    """Makes rows of steps.

    Attributes:
        rows: The rows.
        messages: The handshake messages, in order.
        chains: The certificates that each party presented.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.rows: list[Row] = []
        self.messages: list[Dissection] = []
        self.chains: dict[Party, tuple[bytes, ...]] = {}
        self._failure = failure_of(transcript)
        self._failure_told = False
        self._accept_seen, self._done_seen = _datagrams_around_report(transcript)
        self._reported = False
        self._streams: Final = {True: MessageStream(), False: MessageStream()}
        self._unread = bytearray()  # what came in since the last record that was understood
        self._unsent: list[int] = []  # the rows of what was written, but not sent
        self._asked: HandshakeRequest | InvalidRequest | None = None
        self._at = 0.0

    def take(self, at: float, step: Step) -> None:
        """Take the next step."""
        self._at = at
        match step:
            case Datagram() | Started() | Reported() | Answered() | Installed() | Closed():
                self._kernel(step)
            case Plaintext() | Received() | Sent():
                self._peer(step)
            case Configured() | IdentityLoaded() | PskLoaded() | PsksLookedUp() | PeerKeyMade():
                self._keys(step)
            case Completed() | Failed() | LocallyFailed() | Interrupted() | Noted():
                self._outcome(step)
            case Drew() | Encapsulated() | Signed() | SecretLogged() | Exported() | Summarized():
                pass
            case RevocationChecked():
                pass  # A refusal is the failure that follows.
            case _:
                assert_never(step)

    def finish(self) -> None:
        """The transcript ends: what is half there is told as such."""
        self._tell_unread()
        for row in self._unsent:
            self.rows[row] = replace(self.rows[row], tone="odd", defect="it was not sent")

    def _add(
        self,
        source: Party,
        target: Party,
        label: str,
        *details: Detail,
        tone: Tone = "plain",
        size: int | None = None,
        defect: str | None = None,
    ) -> None:
        self.rows.append(
            Row(
                at=self._at,
                source=source,
                target=target,
                label=label,
                size=size,
                tone=tone,
                details=details,
                defect=defect,
            )
        )

    def _remark(self, label: str, *details: Detail, tone: Tone = "plain") -> None:
        self._add("agent", "agent", label, *details, tone=tone)

    # Kernel

    def _kernel(self, step: _KernelStep) -> None:
        match step:
            case Datagram(outgoing=outgoing, data=data):
                for found in dissect_datagram_untrusted(data, outgoing=outgoing):
                    self._dissected(found, "kernel", outgoing=outgoing)
            case Started():
                self._started(step)
            case Reported():
                self._report(step)
            case Answered():
                self._answered(step)
            case Installed():
                self._installed(step)
            case Closed():
                self._add(
                    "agent", "kernel", "close" if self._asked is None else f"close fd {self._asked.sockfd}"
                )
            case _:
                assert_never(step)

    def _started(self, step: Started) -> None:
        asked = step.request
        self._asked = asked
        if self._accept_seen:
            return
        name = None if isinstance(asked, InvalidRequest) else asked.peername
        details = () if name is None else (detail("PEERNAME", [printable(name)]),)
        self._add("kernel", "agent", f"request ({', '.join(ROLES[type(asked)])})", *details)

    def _report(self, step: Reported) -> None:
        if step.status and not self._failure_told:
            self._tell_failure(self._failure)
        self._reported = True
        if self._done_seen:
            return
        keys = [f"key {serial_text(serial)}" for serial in step.remote_auth]
        details = (detail("REMOTE_AUTH", keys),) if keys else ()
        tone: Tone = "bad" if step.status else "good"
        self._add("agent", "kernel", f"DONE {status_name(step.status)}", *details, tone=tone)

    def _answered(self, step: Answered) -> None:
        said = (detail(WHY, [printable(step.text)]),) if step.text else ()
        if step.error is None:
            self._remark("no answer to DONE", *said, tone="bad")
        elif not self._done_seen and step.error:
            self._add("kernel", "agent", f"refused: {status_name(step.error)}", *said, tone="bad")
        elif not self._done_seen:
            self._add("kernel", "agent", "acknowledged")

    def _installed(self, step: Installed) -> None:
        details = []
        if step.refusal is not None:
            details.append(detail(WHY, [printable(step.refusal, MAX_REASON)]))
        if step.behind:
            details.append(detail("behind the handshake", [f"{len(step.behind)} bytes"]))
        tone: Tone = "good" if step.refusal is None else "bad"
        self._add("agent", "kernel", f"TLS_TX, TLS_RX: {printable(step.cipher)}", *details, tone=tone)

    # Peer

    def _peer(self, step: _PeerStep) -> None:
        match step:
            case Plaintext():
                self._plaintext(step)
            case Received(data=b""):
                self._tell_unread()
                self._add("peer", "agent", "end of file")
            case Received(data=data):
                self._unread += data
            case Sent(data=data):
                if not self._unsent:  # (an alert that was made without an engine)
                    self._dissected(dissect_bytes_untrusted(data), "peer", outgoing=True, size=len(data))
                self._unsent.clear()
            case _:
                assert_never(step)

    def _plaintext(self, step: Plaintext) -> None:
        if not step.outgoing:
            self._unread.clear()
        elif step.content_type == ContentType.ALERT:
            self._tell_unread()  # it is why
        before = len(self.rows)
        if step.content_type == ContentType.HANDSHAKE:
            for message in self._streams[step.outgoing].feed_untrusted(step.data):
                self._message(message, outgoing=step.outgoing)
        else:
            found = dissect_record_untrusted(step.content_type, step.data)
            self._dissected(found, "peer", outgoing=step.outgoing)
        if step.outgoing:
            self._unsent.extend(range(before, len(self.rows)))

    def _message(self, message: bytes, *, outgoing: bool) -> None:
        found = dissect_message_untrusted(message)
        self.messages.append(found)
        if found.certificates:
            self.chains["agent" if outgoing else "peer"] = found.certificates
        self._dissected(found, "peer", outgoing=outgoing, size=len(message))

    def _tell_unread(self) -> None:
        """Show what came in and led to no message."""
        if rest := self._streams[False].take_rest():
            self._message(rest, outgoing=False)
        if self._unread:
            data = bytes(self._unread)
            self._unread.clear()
            self._dissected(dissect_bytes_untrusted(data), "peer", outgoing=False, size=len(data))

    def _dissected(self, found: Dissection, party: Party, *, outgoing: bool, size: int | None = None) -> None:
        tone: Tone = "plain"
        if found.bad or found.defect is not None:
            tone = "bad"
        elif found.name == "DONE ok":
            tone = "good"
        self._add(
            "agent" if outgoing else party,
            party if outgoing else "agent",
            found.name,
            *found.details,
            tone=tone,
            size=size,
            defect=found.defect,
        )

    # Keys

    def _keys(self, step: _KeyStep) -> None:
        match step:
            case Configured():
                self._configured(step)
            case IdentityLoaded(certificate=serial, chain=chain, failure=failed):
                label = f"certificate {serial_text(serial)}"
                self._loaded(label, "subject", [subject_untrusted(der) for der in chain[:1]], failed)
            case PskLoaded(serial=serial, found=found, failure=failed):
                label = f"pre-shared key {serial_text(serial)}"
                names = [] if found is None else [shown_identity(found.identity)]
                self._loaded(label, "identity", names, failed)
            case PsksLookedUp():
                self._looked_up(step)
            case PeerKeyMade(serial=serial):
                made = "no peer key" if serial is None else f"peer key {serial_text(serial)}"
                self._add("agent", "kernel", made)
            case _:
                assert_never(step)

    def _configured(self, step: Configured) -> None:
        """Show what the request uses of it."""
        details = []
        if step.trust is not None and not isinstance(self._asked, ClientPsk | ServerPsk):
            details.append(detail("trusts", map(subject_untrusted, step.trust)))
        if step.identity and isinstance(self._asked, ClientX509 | ServerX509):
            details.append(detail("identity", [subject_untrusted(step.identity[0])]))
        if details:
            self._remark("configuration", *details)

    def _loaded(self, label: str, name: str, values: list[str], failed: Failure | None) -> None:
        if failed is None:
            self._add("kernel", "agent", label, detail(name, values))
        else:
            said = detail(WHY, [printable(failed.reason, MAX_REASON)])
            self._add("kernel", "agent", label, said, tone="bad")

    def _looked_up(self, step: PsksLookedUp) -> None:
        details = [
            detail(f"key {serial_text(found.serial)}", [shown_identity(found.identity)])
            for found in step.found
        ]
        details += [detail(WHY, [printable(note, MAX_REASON)]) for note in step.notes]
        label = f"{len(step.found)} of {len(step.identities)} pre-shared keys known"
        self._add("kernel", "agent", label, *details, tone="plain" if step.found else "bad")

    # Outcome

    def _outcome(self, step: _OutcomeStep) -> None:
        match step:
            case Completed(result=result):
                peer = () if result.peer is None else (detail("peer", [printable(result.peer.subject)]),)
                label = ", ".join(filter(None, ("keys agreed: " + result.cipher_suite, result.group)))
                self._remark(printable(label), *peer, tone="good")
            case Failed(failure=failed) | LocallyFailed(failure=failed):
                self._tell_unread()
                self._tell_failure(failed)
            case Interrupted(by=by):
                self._interrupted(by)
            case Noted(text=text):
                self._remark("note", detail("text", [printable(text, MAX_REASON)]), tone="odd")
            case _:
                assert_never(step)

    def _interrupted(self, by: Interruption) -> None:
        self._tell_unread()
        tone: Tone = "odd" if self._reported else "bad"  # once DONE is made, nothing changes it
        source: Party = "kernel" if by is Interruption.CANCEL else "agent"
        self._add(source, "agent", by.value, tone=tone)

    def _tell_failure(self, failed: Failure | None) -> None:
        if failed is not None:
            why = detail(WHY, [sentence(failed.reason)])
            self._remark(failed.cause.name.lower().replace("_", " "), why, tone="bad")
            self._failure_told = True


def _datagrams_around_report(transcript: Transcript) -> tuple[bool, bool]:
    """Are there datagrams of ACCEPT, and of DONE?"""
    steps = [timed.step for timed in transcript.steps]
    report = next((at for at, step in enumerate(steps) if isinstance(step, Reported)), len(steps))
    before, after = (
        any(isinstance(step, Datagram) for step in part) for part in (steps[:report], steps[report:])
    )
    return before, after
