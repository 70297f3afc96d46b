"""A minimal terminado server, run by the Python of the virtual environment that terminado is installed in."""

import asyncio
import sys
from importlib import import_module
from typing import Any

terminado: Any = import_module("terminado")  # not installed where this project is checked
web: Any = import_module("tornado.web")


async def main(port: int) -> None:
    """Serve a shell of its own to each connection to /websocket."""
    terminals = terminado.UniqueTermManager(
        shell_command=["/bin/bash", "--norc", "--noprofile"], max_terminals=10_000
    )
    handler = (r"/websocket", terminado.TermSocket, {"term_manager": terminals})
    web.Application([handler]).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
