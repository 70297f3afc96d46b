"""Builds the restricted shell of the sandbox image from `docker/shell/` (see docs/restricted-shell.md)."""

from pathlib import Path

from supervisor.provision.compiler import compile_static, docker_directory

INSTALLED_AT = "/usr/local/bin/restricted-shell"  # in the image; the shell tells it to its commands as SHELL
COMMANDS_FILE = "/etc/terminal-supervisor/commands"  # in the image: the allow list where no --allow is given


def build_shell(destination: Path, target: str | None = None) -> Path:
    """Compile the restricted shell to `destination` (mode 0755) and return it; nothing to do when up to date.

    Args:
        destination: where the program goes; its digest file is put beside it.
        target: machine to compile for, `x86_64` or `aarch64` (or `amd64`, `arm64`); None is this host's.

    Raises:
        ConfigurationError: this host has no usable compiler, or the compiler refused.
    """
    sources = sorted((docker_directory() / "shell").glob("*.[ch]"))
    return compile_static(sources, destination, freestanding=False, target=target)
