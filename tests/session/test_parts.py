"""The session's small parts: scrollback, limiter, countdown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.session.clocks import Countdown
from supervisor.session.limiter import TokenBucket
from supervisor.session.scrollback import BLOCK, Scrollback


@given(
    st.integers(1, 5 * BLOCK),
    st.lists(st.integers(0, 3 * BLOCK), max_size=12),
    st.integers(0, 20 * BLOCK),
    st.integers(1, 4 * BLOCK),
)
def test_scrollback_is_the_tail_of_the_stream(
    capacity: int, sizes: list[int], offset: int, size: int
) -> None:
    scrollback, stream = Scrollback(capacity), b""
    for number, length in enumerate(sizes):
        piece = bytes((number + i) % 251 for i in range(length))
        scrollback.append(piece)
        stream += piece
    assert scrollback.end == len(stream)
    assert scrollback.start == max(0, len(stream) - capacity)
    if scrollback.start <= offset <= scrollback.end:
        assert scrollback.read(offset, size) == stream[offset : offset + size]
    else:
        with pytest.raises(ValueError, match="outside"):
            scrollback.read(offset, size)


def test_scrollback_forgets_what_it_does_not_keep() -> None:
    scrollback = Scrollback(10 * BLOCK)
    for _ in range(1000):
        scrollback.append(b"x" * (BLOCK - 1))
    held = sum(len(block) for block in scrollback._blocks)
    assert held <= 11 * BLOCK


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 500)), max_size=50))
def test_bucket_never_gives_more_than_burst_and_rate(charges: list[tuple[float, int]]) -> None:
    bucket, now, paid_at, total = TokenBucket(rate=100, burst=200, now=0), 0.0, 0.0, 0
    for pause, amount in charges:
        now += pause
        total += amount
        paid_at = max(paid_at, now + bucket.charge(amount, now))
        assert total <= 200 + 100 * paid_at + 1e-6


def test_bucket_survives_a_clock_that_steps_back() -> None:
    bucket = TokenBucket(rate=10, burst=10, now=100)
    assert bucket.charge(10, 100) == 0
    assert bucket.charge(10, 50) == pytest.approx(1)
    assert bucket.charge(10, 101) == pytest.approx(1)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_bucket_refuses_nonsense(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, burst, 0)


def test_countdown_warns_once_and_takes_it_back() -> None:
    countdown = Countdown(100, 10, now=0)
    assert (countdown.due, countdown.check(89)) == (90, None)
    assert not countdown.restart(50)
    assert countdown.check(90) is None
    assert countdown.due == 140
    assert [countdown.check(now) for now in (140, 141)] == ["warn", None]
    assert countdown.due == 150
    assert countdown.restart(145)
    assert [countdown.check(now) for now in (150, 234, 235, 244, 245)] == [None, None, "warn", None, "over"]


@given(st.floats(1, 1e6), st.floats(0, 1e6), st.lists(st.floats(0, 1e6)))
def test_a_restart_only_makes_a_countdown_s_next_word_later(
    timeout: float, warning: float, steps: list[float]
) -> None:
    countdown, now, due = Countdown(timeout, warning, now=0), 0.0, 0.0
    for step in steps:
        now = min(now + step, countdown.due)  # it is asked when it is due
        if countdown.check(now) == "over":
            assert now >= countdown.deadline
            return
        assert countdown.due >= due
        due = countdown.due
        countdown.restart(now)
        assert countdown.due >= due - 1e-6
        due = countdown.due


@pytest.mark.parametrize("warning", [0, 5, 1000])
def test_countdown_with_any_warning(warning: float) -> None:
    countdown = Countdown(10, warning, now=0)
    said: list[str | None] = []
    now = 0.0
    while "over" not in said:
        now = countdown.due
        said.append(countdown.check(now))
    assert now == 10
    assert said == (["warn", "over"] if warning else ["over"])
