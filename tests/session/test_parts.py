"""The session's small parts: scrollback, limiter, countdown."""

import pytest
import trio
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


async def test_countdown_warns_once_and_takes_it_back(autojump_clock: trio.abc.Clock) -> None:
    said: list[tuple[str, float]] = []
    countdown = Countdown(100, 10)

    async def restart_at(*times: float) -> None:
        for time in times:
            await trio.sleep_until(begin + time)
            countdown.restart()

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart_at, 50, 145)
        await countdown.run(
            lambda: said.append(("warn", trio.current_time() - begin)),
            lambda: said.append(("clear", trio.current_time() - begin)),
        )
    assert [(what, round(when)) for what, when in said] == [("warn", 140), ("clear", 145), ("warn", 235)]
    assert round(trio.current_time() - begin) == 245


@pytest.mark.parametrize("warning", [0, 5, 1000])
async def test_countdown_with_any_warning(autojump_clock: trio.abc.Clock, warning: float) -> None:
    begin = trio.current_time()
    countdown = Countdown(10, warning)
    said: list[str] = []
    await countdown.run(lambda: said.append("warn"), lambda: said.append("clear"))
    assert trio.current_time() - begin == pytest.approx(10)
    assert said == (["warn"] if warning else [])
