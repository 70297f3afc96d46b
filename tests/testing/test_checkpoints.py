"""The helper that cancels at every checkpoint: does it count right, and does it find leaks of both kinds?"""

from types import TracebackType

import pytest
import trio

from supervisor.testing.checkpoints import cancel_at_every_checkpoint


class Thing:
    """Something that must be given back."""

    held = 0

    def __enter__(self) -> None:
        Thing.held += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Thing.held -= 1


@pytest.fixture(autouse=True)
def _nothing_held() -> None:
    Thing.held = 0


async def nothing_is_left() -> None:
    assert Thing.held == 0


async def test_counts_suspensions_and_runs_each() -> None:
    reached: list[int] = []

    async def scenario() -> None:
        with Thing():
            for i in range(5):
                reached.append(i)
                await trio.lowlevel.checkpoint()
            reached.append(5)

    assert await cancel_at_every_checkpoint(scenario, nothing_is_left, resumptions=False) == 5
    # Cancelled at the first, ..., the fifth, and once not at all.
    assert reached == [0, 0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]


async def test_without_checkpoints() -> None:
    async def scenario() -> None:
        with Thing():
            pass

    assert await cancel_at_every_checkpoint(scenario, nothing_is_left) == 0


async def test_children_count_and_are_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    ends: list[str] = []

    async def child() -> None:
        with Thing():
            try:
                await trio.sleep(1)
                await trio.sleep(1)
                ends.append("through")
            except trio.Cancelled:
                ends.append("cancelled")
                raise

    async def scenario() -> None:
        async with trio.open_nursery() as outer:

            async def middle(task_status: trio.TaskStatus[None]) -> None:
                async with trio.open_nursery() as inner:
                    inner.start_soon(child)
                    task_status.started()

            await outer.start(middle)

    # The child's two, and those of the nurseries around it.
    assert await cancel_at_every_checkpoint(scenario, nothing_is_left) > 2
    assert ends[-1] == "through"
    assert ends.count("through") >= 2
    assert ends.count("cancelled") >= 4


async def test_finds_what_leaks_while_suspended() -> None:
    async def scenario() -> None:
        Thing.held += 1
        await trio.lowlevel.checkpoint()
        Thing.held -= 1

    with pytest.raises(AssertionError) as caught:
        await cancel_at_every_checkpoint(scenario, nothing_is_left)
    assert caught.value.__notes__ == ["the scenario was cancelled at checkpoint 1 (while suspended)"]


async def test_finds_what_leaks_on_resumption() -> None:
    ready = trio.Event()

    async def set_ready() -> None:
        ready.set()

    async def scenario() -> None:
        nonlocal ready
        ready = trio.Event()
        trio.lowlevel.spawn_system_task(set_ready)
        # Right about cancellation while it waits, wrong about what follows.
        await ready.wait()
        Thing.held += 1
        await trio.lowlevel.checkpoint_if_cancelled()
        Thing.held -= 1

    assert await cancel_at_every_checkpoint(scenario, nothing_is_left, resumptions=False) == 1
    with pytest.raises(AssertionError) as caught:
        await cancel_at_every_checkpoint(scenario, nothing_is_left)
    assert caught.value.__notes__ == ["the scenario was cancelled at checkpoint 1 (on resumption)"]


async def test_shielded_cleanup_runs_to_its_end(autojump_clock: trio.testing.MockClock) -> None:
    cleaned = 0

    async def scenario() -> None:
        nonlocal cleaned
        try:
            await trio.sleep(1)
        finally:
            with trio.move_on_after(10, shield=True):
                await trio.sleep(1)
                cleaned += 1

    assert await cancel_at_every_checkpoint(scenario, nothing_is_left) == 2
    assert cleaned == 3 + 3  # each time two cancelled runs and one that gets through


async def test_errors_come_out_unwrapped() -> None:
    async def scenario() -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            raise ValueError("cleanup failed") from None

    with pytest.raises(ValueError, match="cleanup failed") as caught:
        await cancel_at_every_checkpoint(scenario, nothing_is_left)
    assert caught.value.__notes__ == ["the scenario was cancelled at checkpoint 1 (while suspended)"]


async def test_endless_scenario() -> None:
    async def scenario() -> None:
        try:
            while True:
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            pass

    with pytest.raises(AssertionError, match="within 20 checkpoints"):
        await cancel_at_every_checkpoint(scenario, nothing_is_left, limit=20)


async def test_the_callers_own_cancellation_comes_out() -> None:
    with trio.CancelScope() as scope:

        async def scenario() -> None:
            scope.cancel()
            await trio.lowlevel.checkpoint()

        await cancel_at_every_checkpoint(scenario, nothing_is_left)
    assert scope.cancelled_caught
