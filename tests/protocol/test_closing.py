import pytest

from supervisor.errors import (
    ConfigurationError,
    HardeningError,
    PeerError,
    SandboxError,
    SessionRefusedError,
)
from supervisor.protocol.closing import CLOSINGS, MAX_CLOSE_REASON, EndReason, close_reason, reason_for

GIVES_UP = {4000, 4001, 4002, 4003, 4004, 4008, 4009, 1013}
"""Codes after which the existing client does not reconnect by itself."""


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_can_be_said_in_both_protocols(reason: EndReason) -> None:
    closing = CLOSINGS[reason]
    assert 1000 <= closing.code < 5000
    assert 1000 <= closing.ably_code < 5000
    # Never sent in a frame: no status, abnormal closure, TLS failure (RFC 6455, section 7.4.1).
    assert not {closing.code, closing.ably_code} & {1004, 1005, 1006, 1015}
    for text in (closing.reason, closing.ably_reason):
        assert 0 < len(text.encode()) <= MAX_CLOSE_REASON
    assert closing.reason.replace("-", "").isalnum()
    assert closing.reason.islower()
    assert closing.message


@pytest.mark.parametrize("reason", EndReason)
def test_existing_client_forgets_a_session_only_where_it_gives_up(reason: EndReason) -> None:
    closing = CLOSINGS[reason]
    assert (closing.ably_status is not None) == (closing.ably_code in GIVES_UP)


def test_existing_client_shows_the_right_box() -> None:
    for reason, closing in CLOSINGS.items():
        said = closing.ably_reason.lower()
        # The client takes these words for a kind of end, whatever the code.
        assert ("capacity" in said) == (reason is EndReason.CAPACITY)
        assert "rate limit" not in said or closing.ably_code == 4003
        assert closing.ably_code != 1000 or "inactiv" not in said
    assert CLOSINGS[EndReason.CAPACITY].ably_code == 4009
    assert CLOSINGS[EndReason.USER_EXIT].ably_reason == "user-exit"
    assert CLOSINGS[EndReason.REPLACED].ably_reason == "session resumed elsewhere"


@pytest.mark.parametrize(
    "reason", [EndReason.AUTH_TIMEOUT, EndReason.SLOW_CONSUMER, EndReason.SHUTDOWN, EndReason.TOO_LARGE]
)
def test_existing_client_reconnects_by_itself(reason: EndReason) -> None:
    assert CLOSINGS[reason].ably_code not in GIVES_UP


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PeerError("x"), EndReason.PROTOCOL),
        (SessionRefusedError("capacity", "x"), EndReason.CAPACITY),
        (SessionRefusedError("no such reason", "x"), EndReason.INTERNAL),
        (SandboxError("x"), EndReason.UNAVAILABLE),
        (HardeningError("x"), EndReason.UNAVAILABLE),
        (ConfigurationError("x"), EndReason.INTERNAL),
        (KeyError("x"), EndReason.INTERNAL),
        (ExceptionGroup("", [PeerError("x"), SandboxError("y")]), EndReason.PROTOCOL),
        (ExceptionGroup("", [PeerError("x"), ExceptionGroup("", [KeyError("y")])]), EndReason.INTERNAL),
    ],
)
def test_errors_have_reasons(error: BaseException, reason: EndReason) -> None:
    assert reason_for(error) is reason


def test_close_reasons_are_cut_between_code_points() -> None:
    assert close_reason("short") == "short"
    cut = close_reason("ä" * 100)
    assert cut == "ä" * 61
    assert len(close_reason("x" * 500)) == MAX_CLOSE_REASON
    assert close_reason("a\ud800") == "a?"
