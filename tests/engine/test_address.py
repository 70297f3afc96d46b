import hashlib
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from supervisor.engine import DockerContextInvalidError, DockerContextTLSError, DockerError
from supervisor.engine.address import default_sockets, find
from supervisor.engine.ssh import ssh_command


def context(home: Path, name: str, endpoint: object) -> Path:
    """Write a Docker context and return the directory of its certificates."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker/contexts/meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    tls = home / ".docker/contexts/tls" / digest / "docker"
    tls.mkdir(parents=True)
    return tls


def current(home: Path, name: str) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker/config.json").write_text(json.dumps({"currentContext": name}))


def test_the_order_of_precedence(tmp_path: Path) -> None:
    context(tmp_path, "one", {"Host": "unix:///one"})
    context(tmp_path, "two", {"Host": "unix:///two"})
    context(tmp_path, "three", {"Host": "unix:///three"})
    current(tmp_path, "three")
    env = {"HOME": str(tmp_path), "DOCKER_HOST": "unix:///host", "DOCKER_CONTEXT": "two"}
    assert find("unix:///url", "one", environment=env).url == "unix:///url"
    assert find(None, "one", environment=env).url == "unix:///one"
    assert find(None, "default", environment=env).url == "unix:///host"
    assert find(environment=env).url == "unix:///host"
    del env["DOCKER_HOST"]
    assert find(environment=env).url == "unix:///two"
    del env["DOCKER_CONTEXT"]
    assert find(environment=env).url == "unix:///three"
    assert (
        find(environment={**env, "DOCKER_CONFIG": str(tmp_path / ".docker"), "HOME": "/nowhere"}).url
        == "unix:///three"
    )


def test_the_first_socket_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    usual = default_sockets(env)
    assert [path for path in usual if tmp_path in path.parents] == [
        tmp_path / "run/docker.sock",
        tmp_path / ".docker/run/docker.sock",
        tmp_path / ".docker/desktop/docker.sock",
        tmp_path / "run/podman/podman.sock",
    ]
    monkeypatch.setattr(
        "supervisor.engine.address.default_sockets", lambda env: [p for p in usual if tmp_path in p.parents]
    )
    with pytest.raises(ValueError, match=r"DOCKER_HOST is not set.*podman\.sock"):
        find(environment=env)
    podman = tmp_path / "run/podman/podman.sock"
    podman.parent.mkdir(parents=True)
    (tmp_path / "run/docker.sock").write_text("not a socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(podman))
        assert find(environment=env).url == f"unix://{podman}"


@pytest.mark.parametrize(
    "url",
    [
        "/run/docker.sock",
        "unix://relative",
        "npipe:////./pipe/docker_engine",
        "tcp://",
        "tcp://u:p@h:1",
        "tcp://h/path",
        "tcp://h:99999",
        "ssh://",
        "ssh://user:password@host",
        "ssh://host?query",
        "ssh://host:99999",
    ],
)
def test_urls_of_no_use(url: str) -> None:
    with pytest.raises(ValueError):
        find(url, environment={})


def test_the_host_field() -> None:
    hosts = {url: find(url, environment={}).host for url in ("unix:///s", "tcp://h:1", "http://[::1]:2375/")}
    assert hosts == {"unix:///s": "docker", "tcp://h:1": "h:1", "http://[::1]:2375/": "[::1]:2375"}


def test_commands_of_ssh() -> None:
    def command(url: str) -> list[str]:
        return ssh_command(urlsplit(url))[4:]

    dial = "docker system dial-stdio"
    assert command("ssh://host") == ["--", "host", dial]
    assert command("ssh://me@host:2222/") == ["-l", "me", "-p", "2222", "--", "host", dial]
    assert command("ssh://-oProxyCommand=x") == ["--", "-oProxyCommand=x", dial]
    assert (
        command("ssh://host/run/a b;c.sock")[-1] == "docker --host 'unix:///run/a b;c.sock' system dial-stdio"
    )


def test_a_context_that_is_not_there_or_not_well(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    with pytest.raises(DockerContextInvalidError, match="no such context") as caught:
        find(None, "missing", environment=env)
    assert caught.value.context_name == "missing"
    assert caught.value.status == 0
    assert isinstance(caught.value, DockerError)
    context(tmp_path, "hostless", {})
    context(tmp_path, "strange", {"Host": 7})
    for name in ("hostless", "strange"):
        with pytest.raises(DockerContextInvalidError):
            find(None, name, environment=env)
    (tmp_path / ".docker/config.json").write_text("{")
    with pytest.raises(DockerContextInvalidError, match=r"config\.json"):
        find(environment=env)
    (tmp_path / ".docker/config.json").write_text("[]")
    with pytest.raises(DockerContextInvalidError, match="not a JSON object"):
        find(environment=env)


def test_tls_of_a_context(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    tls = context(tmp_path, "safe", {"Host": "tcp://127.0.0.1:2376"})
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tls / "ca.pem")
    mine = authority.issue_cert("me@example.org")
    mine.cert_chain_pems[0].write_to_path(tls / "cert.pem")
    mine.private_key_pem.write_to_path(tls / "key.pem")
    assert find(None, "safe", environment=env).url == "tcp://127.0.0.1:2376"
    (tls / "key.pem").write_text("no key")
    with pytest.raises(DockerContextTLSError, match=r"cert\.pem and key\.pem: "):
        find(None, "safe", environment=env)


def test_tls_of_the_environment(tmp_path: Path) -> None:
    env = {"DOCKER_HOST": "tcp://h:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(DockerContextTLSError, match=r"ca\.pem: "):
        find(environment=env)
    assert find(environment={**env, "DOCKER_TLS_VERIFY": "0"})
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert find(environment=env)
