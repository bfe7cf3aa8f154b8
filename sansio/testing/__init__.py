"""Stand-ins for the world outside, for tests of this agent, of others, and of the kernel's consumers.

| to test                                 | there is                                                       |
|-----------------------------------------|----------------------------------------------------------------|
| a handshake                             | `ConnectionPair` of two `Endpoint`s; a `Link` for the network  |
| what becomes of a request               | `Playbook`, and the module `playbook` with what can happen     |
| a consumer                              | `SimulatedAgent`, whose `submit` gives a `Consumer`            |
| an agent                                | `SimulatedKernel`, `PendingRequest`, `Completion`, faults      |
| the keys that the kernel gets           | `KtlsRecords`, `Record`, `RecordError`                         |

`Authority` makes certificates, `SeededEntropy` makes randomness that is the same in each run.  Like all of `sansio`
none of it does I/O, and time is virtual: see docs/testing.md.
"""

from .agent import Consumer, SimulatedAgent
from .entropy import SeededEntropy
from .pair import ConnectionPair, Endpoint, Link, Pipe, StreamTooLong, VirtualClock
from .pki import Authority, Issued
from .playbook import ANY, Playbook
from .records import KtlsRecords, Record, RecordError
from .simulated_kernel import (
    ChangeAnswer,
    Completion,
    DropReady,
    LoseDoneAnswer,
    PendingRequest,
    RefuseCommand,
    SimulatedKernel,
)

__all__ = [
    "ANY",
    "Authority",
    "ChangeAnswer",
    "Completion",
    "ConnectionPair",
    "Consumer",
    "DropReady",
    "Endpoint",
    "Issued",
    "KtlsRecords",
    "Link",
    "LoseDoneAnswer",
    "PendingRequest",
    "Pipe",
    "Playbook",
    "Record",
    "RecordError",
    "RefuseCommand",
    "SeededEntropy",
    "SimulatedAgent",
    "SimulatedKernel",
    "StreamTooLong",
    "VirtualClock",
]
