"""What programs in Python do, for their system calls to be seen: see supervisor/provision/trace_syscalls.py.

Of the standard library, only what Debian's python3-minimal has.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

path = Path("/tmp/python")  # noqa: S108
with path.open("w") as file:
    file.write("x" * 10000)
    file.flush()
    os.fsync(file.fileno())
    os.ftruncate(file.fileno(), 100)
    os.posix_fallocate(file.fileno(), 0, 200)
with path.open("rb") as file:
    os.pread(file.fileno(), 5, 0)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
for attempt in (
    lambda: os.listxattr(path),
    lambda: os.getxattr(path, "user.x"),
    lambda: os.sched_getaffinity(0),
    lambda: os.getrandom(4),
    lambda: os.getloadavg(),
    lambda: os.getgroups(),
    lambda: os.getresuid(),
    lambda: os.setresuid(-1, -1, -1),
    lambda: os.statvfs(path),
    lambda: os.pipe2(0),
    lambda: os.eventfd(0),
    lambda: os.nice(1),
    lambda: os.openpty(),
    lambda: os.fork() or os._exit(0),
    lambda: os.wait(),
    lambda: os.chown(path, os.getuid(), -1),
    lambda: os.link(path, f"{path}2"),
    lambda: os.posix_spawn("/bin/true", ["true"], {}),
    lambda: socket.create_connection(("127.0.0.1", 9), 0.1),
    lambda: socket.getaddrinfo("endpoint.invalid", 443),
    lambda: socket.if_nameindex(),
    lambda: socket.socketpair(),
    lambda: select.epoll().poll(0.01),
    lambda: select.select([], [], [], 0.01),
    lambda: select.poll().poll(10),
    lambda: signal.setitimer(signal.ITIMER_REAL, 5),
    lambda: signal.sigtimedwait([signal.SIGUSR1], 0.01),
    lambda: signal.pthread_kill(threading.get_ident(), signal.SIGCONT),
):
    with contextlib.suppress(OSError):
        attempt()
subprocess.run(["/bin/sh", "-c", "exit 3"], check=False, capture_output=True)
subprocess.run(["/bin/cat"], check=False, input=b"x", start_new_session=True)
threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdout.write("done\n")
