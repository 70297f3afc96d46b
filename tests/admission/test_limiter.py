"""Limits of rates: boundaries, bursts, clocks that jump, blocks that grow, and a memory that is bounded."""

import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.limiter import MAX_BLOCK, Pace, RateTable

KEY = b"\x7f\x00\x00\x01"


def table(limit: int = 10, window: float = 60, block: float = 60, entries: int = 100) -> RateTable:
    return RateTable(limit, window, block, entries)


def test_as_many_at_once_as_the_limit_and_no_more() -> None:
    rates = table()
    assert [rates.charge(KEY, 1000.0) for _ in range(10)] == [0.0] * 10
    assert rates.charge(KEY, 1000.0) == 60
    assert rates.charge(b"other", 1000.0) == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 600, 100_000])
def test_the_boundary_is_exact_for_every_limit(limit: int) -> None:
    rates = table(limit)
    assert all(rates.charge(KEY, 12345.678) == 0 for _ in range(limit))
    assert rates.charge(KEY, 12345.678) > 0


def test_whoever_has_waited_may_go_on() -> None:
    rates = table()
    for _ in range(10):
        rates.charge(KEY, 0.0)
    assert rates.charge(KEY, 6.0) == 0  # a tenth of the window is one event
    assert rates.charge(KEY, 11.9) == 60


def test_a_block_ends_and_does_not_grow_while_it_lasts() -> None:
    rates = table(limit=1)
    rates.charge(KEY, 0.0)
    assert rates.charge(KEY, 1.0) == 60
    assert rates.charge(KEY, 60.9) == pytest.approx(0.1)
    assert rates.blocked(KEY, 60.9) == pytest.approx(0.1)
    assert rates.refusals(KEY) == 2
    assert rates.blocked(KEY, 61.0) == 0
    assert rates.charge(KEY, 61.0) == 0


def test_blocks_grow_for_those_who_go_on_and_not_for_those_who_calm_down() -> None:
    rates, now, blocks = table(limit=1), 0.0, list[float]()
    for _ in range(9):
        rates.charge(KEY, now)
        blocks.append(rates.charge(KEY, now))
        now += blocks[-1]
    assert blocks == [60, 120, 240, 480, 960, 1920, MAX_BLOCK, MAX_BLOCK, MAX_BLOCK]
    now += 61
    rates.charge(KEY, now)
    assert rates.charge(KEY, now) == 60


def test_a_clock_that_jumps() -> None:
    rates = table()
    for _ in range(10):
        assert rates.charge(KEY, 1000.0) == 0
    assert rates.charge(KEY, 10.0) > 0  # back: stands still
    assert rates.charge(KEY, 1e9) == 0  # far ahead: all is paid
    assert all(rates.charge(KEY, 1e9) == 0 for _ in range(9))
    assert rates.charge(KEY, 1e9) > 0


gaps = st.lists(st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 200)), max_size=120)


@given(gaps=gaps, limit=st.integers(1, 12))
def test_whoever_keeps_to_the_limit_is_never_refused(gaps: list[float], limit: int) -> None:
    rates, now, past = table(limit), 100.0, list[float]()
    for gap in gaps:
        now += gap
        if sum(at > now - 60 for at in past) >= limit:
            now = past[-limit] + 60
        past.append(now)
        assert rates.charge(KEY, now) == 0


@given(gaps=gaps, limit=st.integers(1, 12))
def test_nobody_gets_more_than_twice_the_limit_in_a_window(gaps: list[float], limit: int) -> None:
    rates, now, allowed = table(limit, block=1), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if rates.charge(KEY, now) == 0:
            allowed.append(now)
    for start in allowed:
        assert sum(start <= at < start + 60 for at in allowed) <= 2 * limit


@given(events=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 30)), max_size=300))
def test_the_table_is_never_larger_than_it_may_be(events: list[tuple[int, float]]) -> None:
    rates, now = table(limit=2, entries=8), 0.0
    for key, gap in events:
        now += gap
        rates.charge(bytes([key]), now)
        assert len(rates) <= 8
        assert not rates._free.keys() & rates._blocked.keys()


def test_what_says_least_gives_way() -> None:
    rates = table(limit=1, entries=3)
    rates.charge(b"blocked", 0.0)
    rates.charge(b"blocked", 0.0)
    rates.charge(b"older", 1.0)
    rates.charge(b"newer", 2.0)
    for number in range(1000):
        rates.charge(b"flood%d" % number, 3.0)
    assert rates.blocked(b"blocked", 4.0) > 0
    assert len(rates) == 3
    assert rates.evicted == 1000
    rates.charge(b"x", 5.0)
    rates.charge(b"x", 5.0)
    rates.charge(b"y", 5.0)
    rates.charge(b"y", 5.0)
    rates.charge(b"z", 5.0)  # all are blocked: the one that was first
    assert rates.blocked(b"blocked", 5.0) == 0


def test_memory_under_a_flood_of_made_up_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    entries = 20_000
    tracemalloc.start()
    try:
        rates = table(entries=entries)
        sizes = list[int]()
        for round_ in range(5):
            for number in range(entries):
                rates.charge((round_ * entries + number).to_bytes(8, "big"), float(round_))
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        each = sizes[-1] / entries
        print(f"\nlimiter: {sizes[-1] / 2**20:.1f} MiB for {entries} addresses, {each:.0f} bytes each")
    assert sizes[-1] < 500 * entries
    assert max(sizes[1:]) < 1.3 * sizes[0]


@given(st.lists(st.floats(0, 0.3), max_size=200))
def test_a_pace_for_all(gaps: list[float]) -> None:
    pace, now, allowed = Pace(20), 50.0, list[float]()
    for gap in gaps:
        now += gap
        if pace.allows(now):
            allowed.append(now)
        else:
            assert sum(at > now - 1 for at in allowed) >= 10
    for start in allowed:
        assert sum(start <= at < start + 1 for at in allowed) <= 40
    assert all(earlier <= later for earlier, later in pairwise(allowed))


@pytest.mark.parametrize("bad", [(0, 60, 60, 1), (1, 0, 60, 1), (1, 60, 60, 0)])
def test_what_makes_no_sense_is_refused(bad: tuple[int, float, float, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        RateTable(*bad)
    with pytest.raises(ValueError, match="must be positive"):
        Pace(0)


def test_a_table_goes_on_with_what_another_one_knew() -> None:
    """By a clock that began at another moment: what is blocked stays so for as long, and who has spent has
    spent."""
    old, new = table(), table()
    for _ in range(11):
        old.charge(KEY, 1000.0)
    for _ in range(9):
        old.charge(b"busy", 1010.0)
    memory = json.loads(json.dumps(old.memory(1010.0)))
    new.remember(memory, 5.0)
    assert new.blocked(KEY, 5.0) == pytest.approx(50)
    assert new.blocked(KEY, 5.0) == old.blocked(KEY, 1010.0)
    assert new.refusals(KEY) == 1
    assert new.charge(b"busy", 5.0) == 0
    assert new.charge(b"busy", 5.0) == 60
    # The second block in a row is twice as long there, too.
    for _ in range(11):
        refused = new.charge(KEY, 60.0)
    assert refused == 120
