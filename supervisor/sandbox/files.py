"""Small files of ours that containers have mounted in the place of their own."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from supervisor.errors import SandboxError
from supervisor.sandbox.policy import Mount


@contextmanager
def mounted_file(directory: Path, text: str, target: str) -> Generator[Mount]:
    """Make a file in `directory`, which is private, and yield how it gets to `target` in a container, where
    everybody may read it. It may go once the last container that is to have it runs.

    Raises:
        SandboxError: it cannot be written.
    """
    name = target.rpartition("/")[2]
    path = directory / f"{name}-{secrets.token_hex(8)}"
    try:
        try:
            path.write_text(text)
            path.chmod(0o644)
        except OSError as error:
            raise SandboxError(f"cannot make a {name} file") from error
        yield Mount(str(path), target)
    finally:
        path.unlink(missing_ok=True)
