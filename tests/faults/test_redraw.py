"""Programs that fill the screen, after a resume onto an empty one: they draw it again by themselves."""

from pathlib import Path

import pytest
import trio

from faults.supervised import supervised
from faults.visitor import PROMPT, visit

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("vi /etc/passwd", b"root:x:0:0"),
        ("less /etc/passwd", b"root:x:0:0"),
        ("htop -d 600", b"Load average"),
    ],
)
async def test_it_is_drawn_again(
    docker_host: str, workbench_image: str, tmp_path: Path, command: str, shown: bytes
) -> None:
    with trio.fail_after(90):
        async with supervised(docker_host, tmp_path) as one:
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                await visitor.type(f"{command}\r".encode())
                await visitor.read_until(shown)
                session_id = visitor.hello["sessionId"]
            async with visit(one.url, session_id=session_id) as back:
                seen = b""
                began = trio.current_time()
                while not back.hello or shown not in seen[back.hello["replay"] :]:
                    seen += await back.read()
                print(f"\n{command}: drawn again after {trio.current_time() - began:.2f} s")
                await back.tell({"type": "leave"})
                await back.read_to_end()
