"""Compiles what is mounted into containers: the gate (`docker/gate/`), which is PID 1 of every session's, see
docs/gate.md; and the prober (`docker/netprobe/`), by which networks are tried out.
"""

from pathlib import Path

from supervisor.provision.compiler import compile_static, docker_directory


def build_gate(destination: Path, target: str | None = None) -> Path:
    """Compile the gate to the file `destination` and return it; nothing to do when it is up to date.

    Args:
        destination: the program's path. The file is replaced, not written over: a gate that runs is not
            disturbed.
        target: machine of the engine's host, `x86_64` or `aarch64` (or `amd64`, `arm64`); None is this
            host's.

    Raises:
        ConfigurationError: there is no usable compiler, or it refused; the text says what to do.
    """
    sources = sorted((docker_directory() / "gate").glob("*.[ch]"))
    return compile_static(sources, destination, freestanding=True, target=target)


def build_netprobe(destination: Path, target: str | None = None) -> Path:
    """Compile the prober to the file `destination` and return it; arguments and errors as in `build_gate`."""
    source = docker_directory() / "netprobe" / "netprobe.c"
    return compile_static([source], destination, freestanding=False, target=target)
