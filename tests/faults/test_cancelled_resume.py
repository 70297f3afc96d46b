"""A resume that is cancelled at any checkpoint, of either side: the session, on the real engine, goes on.

The other four are in tests/sandbox/test_cancellation.py (cold start, claim, teardown) and
tests/handover/test_checkpoints.py (hand-over).
"""

import pytest
import trio
import trio.testing
from gateway.harness import V1Client, Wire
from sandbox.conftest import docker_settings

from faults.supervised import TOKEN
from supervisor.admission.token import OneTimeTokens
from supervisor.engine import Docker
from supervisor.gateway.house import House
from supervisor.gateway.pages import Pages
from supervisor.gateway.server import Gateway
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.sandbox.identity import LABEL_INSTANCE
from supervisor.sandbox.providers import open_docker_provider
from supervisor.session.registry import SessionRegistry
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

LIMIT = 200.0  # seconds for all rounds; a quiet machine takes a tenth of it
FEWEST = 68  # checkpoints of a resume (73 are usual); fewer say that something is not tried any more


@pytest.mark.engine
async def test_a_resume_that_is_cancelled_changes_nothing(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = docker_settings(
        request, transport="lifeline", access_token=TOKEN, max_resumes_per_session=10_000
    )
    with trio.fail_after(LIMIT):
        async with (
            Docker(settings.docker_host) as docker,
            open_docker_provider(settings, verify=False) as provider,
            trio.open_nursery() as nursery,
        ):
            registry = SessionRegistry(settings, provider, nursery)
            gateway = Gateway(House(settings, provider, registry, OneTimeTokens(TOKEN)), Pages())
            mine = {"label": [f"{LABEL_INSTANCE}={provider.estate.identity.instance}"]}
            resumed = 0

            async def visit(session_id: str | None, word: str) -> str:
                """Be served over a stream of memory, both ends of which are cancelled; then cut it."""
                nonlocal resumed
                ours, theirs = trio.testing.memory_stream_pair()
                async with trio.open_nursery() as both:
                    both.start_soon(gateway.serve, theirs)
                    wire = Wire(ours)
                    await wire.upgrade(SUBPROTOCOL, target=f"/ws?token={TOKEN}")
                    client = V1Client(wire)
                    again = {"sessionId": session_id, "offset": 0} if session_id else {}
                    resumed += (await client.auth(cols=80, rows=24, **again))["resumed"]
                    await wire.send(f"echo {word[:2]}''{word[2:]}\r".encode())
                    while word.encode() not in client.output:
                        await client.next()
                    await trio.aclose_forcefully(ours)
                return str(client.hello["sessionId"])

            session_id = await visit(None, "first")
            [session] = registry
            rounds = 0

            async def come_back() -> None:
                assert await visit(session_id, f"word{rounds}x") == session_id

            async def unchanged() -> None:
                nonlocal rounds
                rounds += 1
                await trio.testing.wait_all_tasks_blocked()
                numbers = session.statistics()
                assert (numbers.writers, numbers.viewers, session.ended) == (0, 0, None)
                assert gateway.connections == 0
                assert trio.lowlevel.current_statistics().tasks_living == tasks
                assert len(await docker.containers.list(all=True, filters=mine)) == 1

            await docker.containers.list(all=True, filters=mine)
            await trio.testing.wait_all_tasks_blocked()
            tasks = trio.lowlevel.current_statistics().tasks_living
            count = await cancel_at_every_checkpoint(come_back, unchanged)
            with capsys.disabled():
                print(f"\nresume: {count} checkpoints, {rounds} rounds")
            assert count >= FEWEST
            assert resumed >= 3, "the resume itself does not get through"
            assert await visit(session_id, "last") == session_id
            nursery.cancel_scope.cancel()
