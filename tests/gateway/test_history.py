"""A history that takes long to rewrite holds nobody up. On the real clock, which waits for threads."""

import trio

from supervisor.gateway import history
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.registry import SessionRegistry
from supervisor.settings import Settings
from supervisor.settings.knob import MIB
from supervisor.testing.memory import MemoryProvider


async def test_others_get_their_turn_while_a_hostile_history_is_rewritten() -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            registry = SessionRegistry(Settings(), MemoryProvider(), nursery)
            session = await registry.create(b"owner", LeaseRequest(""))
            session.scrollback.append(b"\x1b[c" * (MIB // 3))
            turns = 0
            done = trio.Event()

            async def neighbour() -> None:
                nonlocal turns
                while not done.is_set():
                    turns += 1
                    await trio.sleep(0.001)

            nursery.start_soon(neighbour)
            shown = await history.read_history(session)
            done.set()
            assert shown.data == b""
            assert shown.offset == session.scrollback.end
            assert turns > 3  # on the spot it would be none
            session.end(EndReason.LEFT)
