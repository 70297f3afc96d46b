"""Tar archives from the engine, in memory or, beyond a size, in a temporary file."""

import io
import tarfile
import tempfile
from typing import IO

from supervisor.engine.reply import Reply

IN_MEMORY = 8 * 1024 * 1024
"""Bytes of an archive that are kept in memory."""


class _Archive(tarfile.TarFile):
    """An archive whose file is closed with it."""

    def close(self) -> None:
        super().close()
        self.fileobj.close()


async def receive_archive(reply: Reply) -> tarfile.TarFile:
    """Return the tar archive that `reply` carries, open for reading. Closes the reply, and on errors the
    file.
    """
    file: IO[bytes] = io.BytesIO()
    try:
        async with reply:
            while data := await reply.receive():
                file.write(data)
                if isinstance(file, io.BytesIO) and file.tell() > IN_MEMORY:
                    memory, file = file, tempfile.TemporaryFile()  # noqa: SIM115 - the result owns it
                    file.write(memory.getbuffer())
        file.seek(0)
        return _Archive.open(mode="r", fileobj=file)
    except BaseException:
        file.close()
        raise
