import os
import socket
from pathlib import Path

import httpx
import pytest
import trio

from admin.stage import stage
from supervisor.admin.address import AdminAddress, admin_address
from supervisor.admin.listener import administered
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

TOKEN = "operators-token-of-no-value"


async def ask(address: AdminAddress, path: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(address.path) if address.path else None)
    host = "admin" if address.path else f"{address.host}:{address.port}"
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.get(f"http://{host}{path}", headers={"Authorization": f"Bearer {TOKEN}"})


async def test_a_unix_socket_of_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with stage(admin_listen=f"unix:{path}") as s:
        async with administered(s.supervisor.view) as address:
            assert address is not None
            assert path.stat().st_mode & 0o777 == 0o600
            assert (await ask(address, "/health")).json() == {"status": "ok"}
        assert not path.exists()


async def test_a_port_of_loopback_with_a_token() -> None:
    async with (
        stage(admin_listen="127.0.0.1:0", admin_token=TOKEN) as s,
        administered(s.supervisor.view) as address,
    ):
        assert address is not None
        assert (await ask(address, "/stats")).is_success


async def test_the_listener_is_not_inherited(tmp_path: Path) -> None:
    async with stage(admin_listen=f"unix:{tmp_path / 'a'}") as s, administered(s.supervisor.view):
        descriptors = range(100)
        sockets = [fd for fd in descriptors if _is_listener(fd)]
        assert sockets
        assert not any(map(os.get_inheritable, sockets))


def _is_listener(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as each:
            return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


async def test_a_successor_takes_the_name_over(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with stage(admin_listen=f"unix:{path}") as s:
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def predecessor(*, task_status: trio.TaskStatus[None]) -> None:
                async with administered(s.supervisor.view):
                    task_status.started()
                    await done.wait()

            await nursery.start(predecessor)
            async with administered(s.supervisor.view) as address:
                done.set()
                assert address is not None
                assert (await ask(address, "/health")).is_success
        assert not path.exists()


async def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    async with stage(admin_listen=f"unix:{path}") as s:
        with pytest.raises(ConfigurationError, match="no socket"):
            async with administered(s.supervisor.view):
                pass
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("unix:relative", "absolute"),
        ("0.0.0.0:9090", "loopback"),
        ("192.0.2.1:9090", "loopback"),
        ("127.0.0.1:99999", "0 to 65535"),
        ("somewhere", "must be auto"),
        ("127.0.0.1:x", "must be auto"),
    ],
)
def test_addresses_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        admin_address(Settings(admin_listen=text, admin_token=TOKEN))


def test_a_port_takes_a_token() -> None:
    with pytest.raises(ConfigurationError, match="ADMIN_TOKEN"):
        admin_address(Settings(admin_listen="127.0.0.1:9090"))
    assert admin_address(Settings(admin_listen="[::1]:9090", admin_token=TOKEN)) == AdminAddress(
        host="::1", port=9090
    )
    assert admin_address(Settings(admin_listen="none")) is None
