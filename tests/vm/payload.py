"""What of this checkout goes into the machine: the project as it is, and images from this host's engine."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from supervisor.attacks.run import attacker_program
from supervisor.engine import Docker
from vm.disk import ROOT

_PARTS: Final = ("supervisor", "docker", "tests", "packaging", "pyproject.toml", ".state/bin")
_CHUNK: Final = 1 << 20


@asynccontextmanager
async def payload(docker_host: str, images: Iterable[str]) -> AsyncGenerator[list[tuple[Path, str]]]:
    """Yield what `run_in_machine` is to share: the project at /vm/share/project, images at /vm/share/images.

    Raises:
        DockerError: the engine has no such image.
    """
    attacker_program(ROOT / ".state/bin")  # there is no compiler in the machine
    with TemporaryDirectory(prefix="terminal-supervisor-images-") as scratch:
        share = [(ROOT / part, f"project/{part}") for part in _PARTS]
        async with Docker(docker_host) as docker:
            for name in images:
                file = Path(scratch) / f"{name.partition(':')[0]}.tar"
                async with docker.images.export_image(name) as archive:
                    with file.open("wb") as stream:
                        async for chunk in archive.iter_chunked(_CHUNK):
                            stream.write(chunk)
                share.append((file, f"images/{file.name}"))
        yield share
