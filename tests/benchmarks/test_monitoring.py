"""The benchmark of the resource monitor measures something, and leaves nothing."""

import os

import pytest
import trio
from conftest import missing

from benchmarks.monitoring import groups, measure
from supervisor.reaping.cgroups import hierarchies


async def test_a_few_control_groups(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0:
        missing(request, "needs root")
    with trio.fail_after(60):
        with groups(3) as readers:
            usages = [read() for read in readers]
            assert [usage.pids for usage in usages if usage] == [1, 1, 1]
            await measure(readers, 1, 0.2)
    left = [group for root in hierarchies().values() for group in root.glob(f"*benchmark.{os.getpid()}")]
    assert left == []
