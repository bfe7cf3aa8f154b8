"""No pure-Python primitive runs: every function that a handshake calls is recorded and looked at.

Of tlslite-ng only the state machine, the messages and their parsers may run; of python-ecdsa nothing may.  Stock
tlslite-ng under the same eyes is the control: there they all run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from types import FrameType

import pytest

from ktls_agent.sansio.tls import connection
from ktls_agent.sansio.tls.parameters import CIPHER_SUITES, GROUPS
from tests.peers.adversary import ClientAdversary, ServerAdversary
from tests.pki import KeyType
from tests.tls.handshakes import (
    KEY_TYPES,
    client_engine,
    client_identity,
    identity,
    issued,
    mutual_client,
    mutual_server,
    shake_hands,
)
from tests.tls.stock import stock_client, stock_server

STATE_MACHINE = {
    "tlslite/constants.py",
    "tlslite/defragmenter.py",
    "tlslite/extensions.py",
    "tlslite/handshakehelpers.py",
    "tlslite/handshakesettings.py",
    "tlslite/messages.py",
    "tlslite/session.py",
    "tlslite/tlsconnection.py",
    "tlslite/tlsrecordlayer.py",
    "tlslite/x509certchain.py",
    "tlslite/utils/codec.py",
    "tlslite/utils/compat.py",
    "tlslite/utils/deprecations.py",
    "tlslite/utils/lists.py",
}
"""The modules of tlslite-ng in which no arithmetic is done on a secret."""

HARMLESS = {
    ("tlslite/bufferedsocket.py", "__init__"),  # made by the base class, and replaced
    ("tlslite/utils/tlshashlib.py", "new"),  # hashlib's constructors, for the transcript that is replaced
    ("tlslite/utils/tlshashlib.py", "md5"),
    ("tlslite/utils/tlshashlib.py", "_fipsFunction"),
    ("tlslite/handshakehashes.py", "__init__"),  # made by the base class, and replaced
    ("tlslite/keyexchange.py", "calcVerifyBytes"),  # lays out the content that is signed, which is public
    ("tlslite/recordlayer.py", "__init__"),
    ("tlslite/utils/cryptomath.py", "secureHash"),  # hashlib over that content
}
"""Single functions of other modules, which do none either."""

Function = tuple[str, str]


@contextmanager
def watching() -> Iterator[set[Function]]:
    """Record each Python function of tlslite-ng and python-ecdsa that is called."""
    called: set[Function] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            path = frame.f_code.co_filename
            _, package, rest = path.rpartition("/site-packages/")
            if package and rest.startswith(("tlslite/", "ecdsa/")):
                called.add((rest, frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)


def arithmetic(called: set[Function]) -> set[Function]:
    return {
        function
        for function in called - HARMLESS
        if function[0] not in STATE_MACHINE and function[1] not in ("<module>", "<lambda>")
    }


@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, GROUPS)])
def test_no_pure_python_for_any_suite_and_group(suite: str, group: str) -> None:
    with watching() as called:
        pair = shake_hands(mutual_client(), mutual_server(cipher_suites=(suite,), groups=(group,)))
        assert pair.server.completed.group == pair.client.completed.group == group
        pair.client.engine.extract_secrets()
        pair.server.engine.extract_secrets()
    assert arithmetic(called) == set()
    assert ("tlslite/tlsconnection.py", "_clientTLS13Handshake") in called
    assert ("tlslite/tlsconnection.py", "_serverTLS13Handshake") in called


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_no_pure_python_for_any_key(key_type: KeyType) -> None:
    with watching() as called:
        pair = shake_hands(mutual_client(key_type), mutual_server(key_type))
        assert pair.server.completed
        assert pair.client.completed
    assert arithmetic(called) == set()


def test_no_pure_python_where_a_handshake_fails() -> None:
    with watching() as called:
        peer = ServerAdversary(client_engine(), identity("rsa2048"))
        peer.alter[15] = lambda data: data[:-1] + bytes([data[-1] ^ 1])
        assert not peer.run(peer.script()).completed
    assert arithmetic(called) == set()


@pytest.mark.parametrize(
    ("play", "expected"),
    [
        (
            lambda: ServerAdversary(stock_client(issued("p256", "client.test")), identity()),
            {
                ("ecdsa/keys.py", "sign_digest_deterministic"),
                ("ecdsa/ellipticcurve.py", "__mul__"),
                ("tlslite/utils/cryptomath.py", "HKDF_expand"),
                ("tlslite/recordlayer.py", "_encryptThenSeal"),
                ("tlslite/utils/x25519.py", "x25519"),
                ("tlslite/utils/aesgcm.py", "seal"),
            },
        ),
        (
            lambda: ClientAdversary(
                stock_server(issued("rsa2048"), reqCert=True), client_identity("rsa2048"), suite=0x1303
            ),
            {
                ("tlslite/utils/python_rsakey.py", "_rawPrivateKeyOp"),
                ("tlslite/utils/rsakey.py", "RSASSA_PSS_verify"),
                ("tlslite/utils/chacha.py", "encrypt"),
            },
        ),
    ],
    ids=["client", "server"],
)
def test_stock_runs_them_and_is_seen(
    play: Callable[[], ServerAdversary | ClientAdversary], expected: set[Function]
) -> None:
    with watching() as called:
        peer = play()
        script = (
            peer.script(client_certificate=True)
            if isinstance(peer, ServerAdversary)
            else peer.script(certificate=True)
        )
        assert peer.run(script).completed
    assert expected <= arithmetic(called)


def test_tlslite_itself_is_left_as_it_is() -> None:
    """Others in the process may use it: nothing of it is patched."""
    from tlslite import tlsconnection  # noqa: TID251
    from tlslite.utils import cryptomath  # noqa: TID251

    shake_hands()
    assert tlsconnection.secureHMAC is cryptomath.secureHMAC
    assert tlsconnection.HKDF_expand_label is cryptomath.HKDF_expand_label
    assert tlsconnection.getRandomBytes is cryptomath.getRandomBytes
    assert (
        connection.Connection._clientTLS13Handshake is not tlsconnection.TLSConnection._clientTLS13Handshake
    )
