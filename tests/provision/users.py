"""What set-up does so that containers' users are others of the host: run as a program.

unshare --mount python users.py SCENARIO DIRECTORY
"""

import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from provision.own_etc import have_own_etc
from supervisor.errors import ConfigurationError
from supervisor.provision import remapping
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.remapping import USER

SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


def make_possible(directory: Path) -> None:
    trio.run(remapping.make_possible, EnginePaths(directory / "data", directory / "run"), print)


def ids(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.startswith(f"{USER}:")]


def make_user() -> int:
    subprocess.run(["useradd", "--system", "--user-group", USER], check=True)
    return pwd.getpwnam(USER).pw_uid


def a_host_that_never_had_any(directory: Path) -> None:
    SUBUID.unlink()
    SUBGID.unlink()
    make_possible(directory)
    assert ids(SUBUID) == ids(SUBGID) == [f"{USER}:100000:65536"]
    assert SUBUID.stat().st_mode & 0o777 == 0o644, "tools of others read it, whatever the umask"
    user = pwd.getpwnam(USER)
    assert (user.pw_dir, user.pw_shell) == ("/nonexistent", "/usr/sbin/nologin")
    before = {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in (SUBUID, SUBGID)}
    make_possible(directory)
    assert {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in (SUBUID, SUBGID)} == before


def ids_of_others_stay_theirs(directory: Path) -> None:
    SUBUID.write_text("# lines that make no sense\nalice:100000:65536\nbob:200000:65536\n:\n")
    SUBGID.write_text("alice:165536:10\n")
    subprocess.run(["useradd", "--no-create-home", "--uid", "270000", "remote"], check=True)
    others = (SUBUID.read_text(), SUBGID.read_text())
    make_possible(directory)
    assert ids(SUBUID) == ids(SUBGID) == [f"{USER}:270001:65536"]
    assert (SUBUID.read_text(), SUBGID.read_text()) == tuple(
        f"{each}{USER}:270001:65536\n" for each in others
    )


def a_user_without_ids_gets_some(directory: Path) -> None:
    """An engine would not give it any."""
    make_user()
    SUBUID.write_text("")
    SUBGID.write_text(f"{USER}:500000:65536\n")
    make_possible(directory)
    assert ids(SUBUID) == [f"{USER}:100000:65536"]
    assert ids(SUBGID) == [f"{USER}:500000:65536"], "what is there stays"


def ids_may_be_given_by_number(directory: Path) -> None:
    line = f"{make_user()}:300000:65536\n"
    SUBUID.write_text(line)
    SUBGID.write_text(line)
    make_possible(directory)
    assert SUBUID.read_text() == SUBGID.read_text() == line


def too_few_ids_are_told(directory: Path) -> None:
    make_user()
    SUBUID.write_text(f"{USER}:300000:65536\n")
    SUBGID.write_text(f"{USER}:300000:1000\n{USER}:400000:1000\n")
    with pytest.raises(ConfigurationError, match=r"^/etc/subgid gives dockremap fewer than the 65536 ids"):
        make_possible(directory)


def tools_that_are_missing_are_named(directory: Path) -> None:
    """No `passwd` package, and no way to install it."""
    for program in ("/usr/sbin/useradd", "/usr/sbin/usermod", "/usr/bin/apt-get"):
        if Path(program).exists():
            subprocess.run(["mount", "--bind", "/dev/null", program], check=True)
    with pytest.raises(ConfigurationError) as caught:
        make_possible(directory)
    assert "useradd: to make the user whose ids containers get" in str(caught.value)
    assert "usermod: " in str(caught.value)
    assert "passwd" in str(caught.value)


def what_useradd_says_is_told(directory: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,bind", "/etc"], check=True)
    with pytest.raises(ConfigurationError, match=r"(?s)useradd .*cannot lock /etc/passwd"):
        make_possible(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remapping, "USER", "root")
        patch.setattr(remapping, "_FILES", {"uid": Path("/etc/no-such-file")})
        with pytest.raises(ConfigurationError, match=r"/etc/no-such-file cannot be made: .*Read-only"):
            make_possible(directory)


def a_kernel_that_gives_none(directory: Path) -> None:
    """In a user namespace of this program's, whose limit is its own."""
    remapping._LIMIT.write_text("0\n")
    with pytest.raises(ConfigurationError, match=r"sysctl user.max_user_namespaces is 0"):
        make_possible(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remapping, "_LIMIT", Path("/nonexistent"))
        with pytest.raises(ConfigurationError, match=r"(?s)gives no user namespaces here: .*No space left"):
            make_possible(directory)


def ids_that_a_container_has_not(directory: Path) -> None:
    """Likewise: the ids there are those of the namespace, one in all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remapping, "_ensure_user", nothing)
        patch.setattr(remapping, "USER", "root")
        patch.setattr(remapping, "_FILES", {"uid": directory / "subuid"})
        (directory / "subuid").write_text("root:100000:65536\n")
        with pytest.raises(ConfigurationError, match=r"this is a container itself, .* /proc/self/uid_map"):
            make_possible(directory)


async def nothing(_: object) -> None:
    pass


IN_USER_NAMESPACE = {"a_kernel_that_gives_none", "ids_that_a_container_has_not"}

if __name__ == "__main__":
    if sys.argv[1] not in IN_USER_NAMESPACE:
        have_own_etc(Path(sys.argv[2]))
    globals()[sys.argv[1]](Path(sys.argv[2]))
