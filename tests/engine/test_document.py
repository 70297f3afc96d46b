"""The examples of docs/engine.md, run on the real engine."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor.engine
from engine.conftest import IMAGE, LABEL
from supervisor.engine import Docker

pytestmark = pytest.mark.engine

DOCUMENT = Path(__file__).parents[2] / "docs/engine.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_example(
    docker: Docker, docker_host: str, label: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    names: dict[str, Any] = {
        **{name: getattr(supervisor.engine, name) for name in supervisor.engine.__all__},
        "trio": trio,
        "docker": docker,
        "config": {"Image": IMAGE, "Labels": {LABEL: label}, "HostConfig": {"NetworkMode": "none"}},
    }
    # `docker` is an argument, because one example binds it anew.
    source = "async def example(docker):\n" + textwrap.indent(EXAMPLES[number], "    ")
    exec(compile(source, f"{DOCUMENT.name}, example {number + 1}", "exec"), names)
    with trio.fail_after(60):
        await names["example"](docker)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
