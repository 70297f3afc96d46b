"""Creating under cancellation: either there is a container and its creator has it, or there is none."""

import pytest
import trio
import trio.testing

from engine.standin import Request, StandIn, hang, reply
from supervisor.engine import Docker, DockerError, undo


def created(standin: StandIn) -> list[str]:
    return [f"{request.method} {request.path}?{request.query}" for request in standin.requests]


class Slow:
    """An answer that is held back until the test lets it go."""

    def __init__(self, answer: bytes) -> None:
        self.asked = trio.Event()
        self.release = trio.Event()
        self._answer = answer

    async def __call__(self, request: Request, stream: trio.SocketStream) -> None:
        self.asked.set()
        await self.release.wait()
        await stream.send_all(self._answer)


@pytest.mark.parametrize(
    ("what", "path", "removal"),
    [
        ("containers", "/containers/create", ("DELETE", "/containers/new")),
        ("networks", "/networks/create", ("DELETE", "/networks/new")),
        ("volumes", "/volumes/create", ("DELETE", "/volumes/new")),
    ],
)
async def test_what_a_cancelled_task_made_is_removed(
    standin: StandIn, client: Docker, what: str, path: str, removal: tuple[str, str]
) -> None:
    slow = Slow(reply(201, {"Id": "new", "Name": "new"}))
    standin.answer("POST", path, slow)
    standin.answer(*removal, reply(204))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(client, what).create, {})
            await slow.asked.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                slow.release.set()
        assert [(request.method, request.path) for request in standin.requests] == [("POST", path), removal]


async def test_a_volume_with_a_name_stays(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", "/volumes/create", hang)
    with trio.fail_after(5):
        with trio.move_on_after(0.05):
            await client.volumes.create({"Name": "mine"})
        assert [request.method for request in standin.requests] == ["POST"]


async def test_cancelling_does_not_wait_for_an_engine_that_hangs(
    standin: StandIn, client: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo, "PATIENCE", 0.05)
    standin.answer("POST", "/containers/create", hang)
    with trio.fail_after(2):
        with trio.move_on_after(0.05) as scope:
            await client.containers.create({}, name="mine")
        assert scope.cancelled_caught
    assert "0 in use" in repr(client)


async def test_a_removal_that_fails_or_hangs_is_logged(
    standin: StandIn, client: Docker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(undo, "PATIENCE", 0.05)
    standin.answer("POST", "/containers/create", reply(201, {"Id": "new"}))
    standin.answer("DELETE", "/containers/new", reply(500, {"message": "busy"}), hang)
    with trio.fail_after(2):
        for _ in range(2):
            slow = Slow(reply(201, {"Id": "new"}))
            standin.answer("POST", "/containers/create", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.containers.create, {})
                await slow.asked.wait()
                nursery.cancel_scope.cancel()
                slow.release.set()
    assert "could not be undone: <DockerContainer new>: [500] busy" in caplog.text
    assert "could not be undone in time" in caplog.text


async def test_a_refusal_comes_out_as_it_is(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", "/containers/create", reply(409, {"message": "taken"}))
    with trio.fail_after(5), pytest.raises(DockerError) as caught:
        await client.containers.create({}, name="mine")
    assert caught.value.status == 409
    assert created(standin) == ["POST /containers/create?name=mine"]
