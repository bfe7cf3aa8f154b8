"""What the kernel's consumer and the peer are told about every cause of failure."""

import errno

import pytest

from ktls_agent.sansio.status import OUTCOMES, Alert, Cause, Failure, failure

KERNEL_DOCUMENT = {errno.EACCES, errno.ENOMEM, errno.EINVAL, errno.ENOKEY, errno.EIO}
"""Documentation/networking/tls-handshake.rst, without success."""

ONLY_CONFIGURATION_MENDS = {
    Cause.NO_CREDENTIALS,
    Cause.NO_TRUST_ANCHORS,
    Cause.KEY_UNREADABLE,
    Cause.PSK_UNUSABLE,
}
PEER_WAS_NOT_ACCEPTED = {
    Cause.BAD_CERTIFICATE,
    Cause.CERTIFICATE_EXPIRED,
    Cause.CERTIFICATE_REVOKED,
    Cause.UNKNOWN_CA,
    Cause.NAME_MISMATCH,
    Cause.WRONG_PURPOSE,
    Cause.NO_PEER_CERTIFICATE,
    Cause.UNKNOWN_PSK,
    Cause.PSK_MISMATCH,
}
PEER_HEARS_NOTHING = {
    Cause.PEER_ALERT,  # an alert is not answered
    Cause.PROTOCOL_VIOLATION,  # the violation names the alert
    Cause.CANCELLED,  # the consumer has shut the socket down
    Cause.END_OF_FILE,
    Cause.CONNECTION_LOST,
    Cause.KTLS_REFUSED,  # the keys may be half installed
    Cause.INVALID_REQUEST,  # nothing was said yet
}


def test_every_cause_has_a_row_and_every_row_a_cause() -> None:
    assert set(OUTCOMES) == set(Cause)


@pytest.mark.parametrize("cause", Cause)
def test_the_status_is_one_that_consumers_know(cause: Cause) -> None:
    # Not success, and not EKEYREJECTED: after it the NVMe host never connects again.
    assert OUTCOMES[cause].status in KERNEL_DOCUMENT | {errno.ETIMEDOUT}


@pytest.mark.parametrize("cause", Cause)
def test_enokey_is_kept_for_what_a_second_try_cannot_mend(cause: Cause) -> None:
    assert (OUTCOMES[cause].status == errno.ENOKEY) == (cause in ONLY_CONFIGURATION_MENDS)


@pytest.mark.parametrize("cause", Cause)
def test_etimedout_is_for_time_alone(cause: Cause) -> None:
    assert (OUTCOMES[cause].status == errno.ETIMEDOUT) == (cause in {Cause.TIMED_OUT, Cause.CANCELLED})


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause in PEER_WAS_NOT_ACCEPTED])
def test_a_rejected_peer_is_eacces_and_hears_why(cause: Cause) -> None:
    assert OUTCOMES[cause].status == errno.EACCES
    assert OUTCOMES[cause].alert is not None


@pytest.mark.parametrize("cause", Cause)
def test_the_peer_gets_an_alert_unless_it_cannot_use_one(cause: Cause) -> None:
    assert (OUTCOMES[cause].alert is None) == (cause in PEER_HEARS_NOTHING)


@pytest.mark.parametrize("cause", Cause)
def test_every_row_says_why(cause: Cause) -> None:
    assert OUTCOMES[cause].why.endswith(".")
    assert cause.value


@pytest.mark.parametrize("cause", Cause)
def test_every_row_says_what_to_do_in_one_or_two_sentences(cause: Cause) -> None:
    remedy = OUTCOMES[cause].remedy
    assert remedy.endswith(".")
    assert 1 <= remedy.count(". ") + 1 <= 2
    assert remedy[0].isupper()
    assert len(remedy) <= 200


def test_no_two_causes_say_the_same() -> None:
    # Two members of an Enum with one value are one member: the list would be shorter than the names.
    assert len({cause.value for cause in Cause}) == len(Cause.__members__)


@pytest.mark.parametrize("cause", Cause)
def test_a_failure_takes_its_status_and_alert_from_the_table(cause: Cause) -> None:
    made = failure(cause, "A sentence.")
    assert made == Failure(cause=cause, reason="A sentence.", alert=OUTCOMES[cause].alert)
    assert made.status == OUTCOMES[cause].status


def test_a_failure_can_carry_the_alert_that_was_received() -> None:
    received = Failure(cause=Cause.PEER_ALERT, reason="The peer sent unknown_ca.", alert=Alert.UNKNOWN_CA)
    assert (received.alert, received.status) == (Alert.UNKNOWN_CA, errno.EACCES)
