"""Fixtures of the gateway's tests."""

import pytest

from supervisor.gateway import history


@pytest.fixture(autouse=True)
def _no_threads_on_virtual_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual clock does not wait for threads: it would run through every timeout meanwhile."""
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(history, "INLINE", 1 << 40)
