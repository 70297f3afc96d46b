"""A hand-over that is cancelled, at whichever checkpoint of either side, leaves the session where it was."""

import gc
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from recordings.cast import only, read
from sandbox.conftest import docker_settings

from supervisor.admission.token import OneTimeTokens
from supervisor.engine import Docker
from supervisor.gateway.house import House
from supervisor.gateway.pages import Pages
from supervisor.gateway.server import Gateway
from supervisor.handover.channel import HandoverError
from supervisor.handover.giving import Giver
from supervisor.handover.taking import succeeding
from supervisor.sandbox.identity import LABEL_INSTANCE
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.recorder import open_recorder
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

LIMIT = 280.0  # seconds for all rounds; a quiet machine takes a tenth of it
FEWEST = 21  # checkpoints of the exchange (23 are usual); fewer say that something is not tried any more


def descriptors() -> set[str]:
    """Open descriptors of this process, as what they are; resting connections to the engine come and go."""
    gc.collect()
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}


async def echoes(session: Session, word: str) -> None:
    """The session's program answers, and nobody else reads what it says."""
    start = session.scrollback.end
    await session.type(f"echo {word[:2]}''{word[2:]}\r".encode(), is_activity=True)
    with trio.fail_after(20):
        while word.encode() not in session.scrollback.read(start, 4096):
            await trio.sleep(0.002)


async def unreachable(successor: int) -> None:
    raise AssertionError(f"handed over to {successor}")


async def prepare_and_give_up(settings: Settings) -> None:
    """A successor that gets everything, makes sessions of it, and does not say the last word."""
    async with succeeding(settings) as successor:
        assert successor is not None
        state = await successor.receive()
        assert state is not None
        assert [each.snapshot.cols for each in state.sessions] == [80]
        for each in state.sessions:
            Session.restore(each.snapshot, settings)
            assert each.recording
            each.recording.close()


@pytest.mark.engine
async def test_a_hand_over_that_is_cancelled_changes_nothing(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = docker_settings(
        request, transport="lifeline", recording_directory=tmp_path, recording_min_free=0
    )
    with trio.fail_after(LIMIT):
        async with (
            Docker(settings.docker_host) as docker,
            open_docker_provider(settings, verify=False) as provider,
            open_recorder(settings) as recorder,
            trio.open_nursery() as nursery,
        ):
            registry = SessionRegistry(settings, provider, nursery, recorder)
            gateway = Gateway(House(settings, provider, registry, OneTimeTokens()), Pages())
            session = await registry.create(b"", LeaseRequest("", ("sh",)))
            await nursery.start(gateway.run)
            mine = {"label": [f"{LABEL_INSTANCE}={provider.estate.identity.instance}"]}
            there = attrs.evolve(settings, port=gateway.house.port)
            giver = Giver(there, provider, registry, gateway, unreachable)
            count = finished = 0

            async def exchange() -> None:
                nonlocal finished
                async with trio.open_nursery() as both:
                    await both.start(giver.run)
                    with suppress(HandoverError):  # the giver was cancelled first, and has said so
                        await prepare_and_give_up(there)
                        finished += 1
                    await trio.testing.wait_all_tasks_blocked()
                    both.cancel_scope.cancel()

            async def unchanged() -> None:
                nonlocal count
                count += 1
                await trio.testing.wait_all_tasks_blocked()
                assert not provider.estate.shared
                await echoes(session, f"w{count}x")
                assert {each for each in descriptors() - before if not each.startswith("socket:")} == set()
                assert len(descriptors()) <= len(before) + 2
                assert len(await docker.containers.list(all=True, filters=mine)) == 1
                assert not list(provider.estate.directory.glob("handover-*")), "the next one listens there"

            await echoes(session, "first")
            await exchange()
            await docker.containers.list(all=True, filters=mine)
            await trio.testing.wait_all_tasks_blocked()
            before = descriptors()
            checkpoints = await cancel_at_every_checkpoint(exchange, unchanged)
            with capsys.disabled():
                print(f"\nhand-over: {checkpoints} checkpoints, {count} rounds")
            assert checkpoints >= FEWEST
            assert finished >= 3, "the exchange itself does not get through"
            output = session.scrollback.read(0, session.scrollback.end)
            nursery.cancel_scope.cancel()
    assert read(only(tmp_path)).text("o").encode() == output, "what is recorded is whole"
