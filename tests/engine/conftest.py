"""Fixtures of the engine client's tests: clients of the real engine and of a stand-in."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from engine.standin import StandIn, standin_engine
from supervisor.engine import Docker, DockerError

IMAGE = "terminal-supervisor-workbench:latest"
LABEL = "terminal-supervisor-test-engine"


@pytest.fixture
async def standin(tmp_path: Path) -> AsyncIterator[StandIn]:
    """A scripted engine."""
    async with standin_engine(tmp_path / "engine.sock") as engine:
        yield engine


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[Docker]:
    """A client of the stand-in."""
    async with Docker(standin.url, timeout=5) as docker:
        yield docker


@pytest.fixture
def label() -> str:
    """A label value of this test alone."""
    return uuid.uuid4().hex


@pytest.fixture
async def docker(docker_host: str, label: str) -> AsyncIterator[Docker]:
    """A client of the real engine; what has this test's label is removed afterwards."""
    async with Docker(docker_host) as docker:
        try:
            yield docker
        finally:
            with trio.move_on_after(30, shield=True):
                await remove_labelled(docker, label)


async def remove_labelled(docker: Docker, label: str) -> None:
    """Remove what has the label."""
    filters = {"label": f"{LABEL}={label}"}
    for container in await docker.containers.list(all=True, filters=filters):
        try:
            await container.delete(force=True, v=True)
        except DockerError as error:
            if error.status not in (404, 409):
                raise
    for prune in (docker.networks.prune, docker.volumes.prune, docker.images.prune):
        while True:
            try:
                await prune(filters=filters)
                break
            except DockerError as error:
                if error.status != 409:  # somebody else is pruning
                    raise
                await trio.sleep(0.1)
