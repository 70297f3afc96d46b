"""Asks a running supervisor's admin listener, for the commands that operators use."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, final

import httpx
import trio

from supervisor.admin.address import AUTO, AdminAddress, admin_address, admin_directory
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

TIMEOUT: Final = 10.0
"""Seconds for an answer; most come within milliseconds."""


@final
class Operator:
    """A connection to one supervisor. Made by `open_operator`.

    Error handling: every method raises ConfigurationError when nobody answers, or for a refusal; its text
    says what to do.
    """

    def __init__(self, client: httpx.AsyncClient, where: str) -> None:
        self._client = client
        self._where = where

    async def ask(self, method: str, path: str) -> Any:
        """Return the JSON of the answer."""
        try:
            answer = await self._client.request(method, path)
        except httpx.TransportError as error:
            raise ConfigurationError(
                f"no supervisor answers at {self._where} (ADMIN_LISTEN): {error}"
            ) from error
        _require(answer, self._where)
        return answer.json()

    async def sessions(self) -> list[dict[str, Any]]:
        """Return all sessions, oldest first."""
        found: list[dict[str, Any]] = (await self.ask("GET", "/sessions"))["sessions"]
        return sorted(found, key=lambda each: -each["age_seconds"])

    async def end(self, session: str) -> None:
        """End a session; none of that id is an error."""
        await self.ask("DELETE", f"/sessions/{session}")

    @asynccontextmanager
    async def output(self, session: str) -> AsyncGenerator[httpx.Response]:
        """Return what a session shows, from the beginning of its scrollback; ends with the session."""
        async with self._client.stream("GET", f"/sessions/{session}/output", timeout=None) as answer:
            if not answer.is_success:
                await answer.aread()
            _require(answer, self._where)
            yield answer


@asynccontextmanager
async def open_operator(settings: Settings) -> AsyncGenerator[Operator]:
    """Connect to the supervisor that runs with `settings`.

    Raises:
        ConfigurationError: there is none, or more than one that could be meant.
    """
    address = await _find(settings)
    transport = httpx.AsyncHTTPTransport(uds=str(address.path) if address.path else None)
    base = "http://admin" if address.path else f"http://{address}"
    headers = {"Authorization": f"Bearer {settings.admin_token}"} if settings.admin_token else {}
    async with httpx.AsyncClient(
        transport=transport, base_url=base, headers=headers, timeout=TIMEOUT
    ) as client:
        yield Operator(client, str(address))


async def _find(settings: Settings) -> AdminAddress:
    address = admin_address(settings)
    if address is None:
        raise ConfigurationError("ADMIN_LISTEN=none: there is no admin listener to ask")
    if settings.admin_listen != AUTO or (address.path and await _answers(address.path)):
        return address
    sockets = await trio.to_thread.run_sync(lambda: sorted(admin_directory().glob("*.sock")))
    alive = [path for path in sockets if await _answers(path)]
    if len(alive) == 1:
        return AdminAddress(alive[0])
    if not alive:
        raise ConfigurationError(f"no supervisor of this user runs here (no listener in {admin_directory()})")
    ports = ", ".join(path.stem for path in alive)
    raise ConfigurationError(f"several supervisors run here: name one by PORT, of {ports}")


async def _answers(path: Path) -> bool:
    try:
        stream = await trio.open_unix_socket(path)
    except OSError:
        return False
    await stream.aclose()
    return True


def _require(answer: httpx.Response, where: str) -> None:
    if not answer.is_success:
        try:
            problem = str(answer.json()["error"])
        except (ValueError, KeyError):
            problem = f"status {answer.status_code}"
        raise ConfigurationError(f"{where}: {problem}")
