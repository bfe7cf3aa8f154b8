"""Stands in for the engine where a transcript does not hold what it takes to compute the handshake again.

It says what the recorded engine said: between two inputs its steps are told again in their order, and what
was sent and what came of it is taken from them.
"""

from collections.abc import Sequence

from ..ktls import IV_SIZE, LAYOUTS, TLS_1_3_VERSION, KernelSecrets, KtlsCipher, TrafficKey
from ..status import Cause, Failure
from ..steps import (
    Answered,
    Completed,
    Drew,
    Encapsulated,
    Exported,
    Failed,
    Installed,
    Interrupted,
    LocallyFailed,
    Plaintext,
    PsksLookedUp,
    Received,
    RevocationChecked,
    Sent,
    Signed,
    Started,
    Step,
    Trace,
)
from ..tls.engine import TlsEngine
from ..tls.parameters import (
    Entropy,
    HandshakeFailed,
    KeysRequested,
    Parameters,
    PreSharedKey,
    TlsEvent,
)


def is_input(step: Step) -> bool:
    """Is it put into the session from outside?"""
    match step:
        case Started() | Sent() | Received() | Interrupted() | LocallyFailed() | Installed() | Answered():
            return True
        case Failed(failure=failed):
            return failed.cause is Cause.CONNECTION_LOST
        case _:
            return False


class StandIn(TlsEngine):
    """See the module's docstring.

    Args:
        trace: Is told the engine's steps again.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._segment: list[Step] = []
        self._answer = b""
        self._steps: Sequence[Step] = ()

    def engine(self, _parameters: Parameters, _entropy: Entropy, _trace: Trace) -> TlsEngine:
        """Be the engine of a session."""
        return self

    def goes_on_with(self, steps: Sequence[Step]) -> None:
        """Learn what the transcript has behind the input that comes next."""
        end = next((at for at, step in enumerate(steps) if is_input(step)), len(steps))
        self._segment = list(steps[:end])
        following = steps[end] if end < len(steps) else None
        self._answer = following.data if isinstance(following, Sent) else b""
        self._steps = steps

    # As a TlsEngine

    def start(self) -> None:
        """See `TlsEngine`."""

    def bytes_wanted(self) -> int:
        """What was received next is what was wanted."""
        following = next((step for step in self._steps if is_input(step)), None)
        return len(following.data) if isinstance(following, Received) else 0

    def receive_data(self, data: bytes) -> None:
        """See `TlsEngine`."""

    def provide_keys(self, keys: tuple[PreSharedKey, ...]) -> None:
        """See `TlsEngine`."""

    def next_event(self) -> TlsEvent | None:
        """Tell the steps of the engine, up to one that is an event."""
        while self._segment:
            step = self._segment.pop(0)
            match step:
                case Drew() | Encapsulated() | Signed() | RevocationChecked() | Plaintext():
                    self._trace(step)
                case PsksLookedUp(identities=identities):
                    return KeysRequested(identities=identities)
                case Completed(result=result):
                    return result
                case Failed(failure=failed):
                    return HandshakeFailed(failure=failed)
                case _:
                    pass
        return None

    def data_to_send(self) -> bytes:
        """See `TlsEngine`."""
        answer, self._answer = self._answer, b""
        return answer

    def abort(self, failed: Failure) -> None:
        """See `TlsEngine`."""

    def extract_secrets(self) -> KernelSecrets:
        """Keys of zeros, of the recorded cipher: a transcript without secrets has none to compare them with."""
        exported = next(step for step in self._steps if isinstance(step, Exported))
        cipher = KtlsCipher[exported.cipher]
        key = TrafficKey(key=bytes(LAYOUTS[cipher].key), iv=bytes(IV_SIZE), sequence=0)
        return KernelSecrets(version=TLS_1_3_VERSION, cipher=cipher, tx=key, rx=key)
