"""`PYTHONPATH=tests python -m vm SCRIPT [ARGUMENT...]`: run a script of one's own in the machine.

    --share DIR     a copy of DIR's contents is at /vm/share, where the script runs
    --out DIR       gets what the script leaves in /vm/out
    --timeout N     seconds for all of it (default 900)

The script's output is streamed to standard output, its exit status is this command's. 124: not done in time,
or the machine ended early.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import trio

from supervisor.errors import ConfigurationError
from supervisor.provision.report import Report
from vm.disk import ensure_disk
from vm.machine import MachineError, run_in_machine


async def main(options: argparse.Namespace) -> int:
    """Return the script's exit status."""
    with Report(sys.stderr).step("machine") as step:
        disk = await ensure_disk(step.progress)
        step.result = str(disk.directory)
    share = [(path, path.name) for path in options.share.iterdir()] if options.share else []
    run = partial(run_in_machine, disk, options.script, options.arguments, share=share, out=options.out)
    return await run(timeout=options.timeout, on_output=_show)


def _show(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="vm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--share", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    try:
        sys.exit(trio.run(main, parser.parse_args()))
    except* MachineError as group:
        print(group.exceptions[0], file=sys.stderr)
        sys.exit(124)
    except* ConfigurationError as group:
        sys.exit(f"vm: {group.exceptions[0]}")
