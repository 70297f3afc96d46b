"""The page's assets: what it needs from npm, fetched as its lock file says and copied to where the server
finds it.

The page's package.json says which files, under `terminalSupervisor.vendor`: name to serve, and where it is in
node_modules.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from supervisor.errors import ConfigurationError
from supervisor.provision.digest import digest
from supervisor.provision.npm import npm

_DIGEST = ".digest"


def page_directory() -> Path:
    """Return the directory of the page's sources."""
    return Path(__file__).parents[1] / "gateway/page"


async def build_page(directory: Path, progress: Callable[[str], object], *, rebuild: bool = False) -> Path:
    """Make `vendor/` in the page's `directory` and return it; nothing to do when it is up to date.

    Raises:
        ConfigurationError: a package could not be fetched, or has not the file that the page asks for.
    """
    vendor = directory / "vendor"
    inputs = {name: directory / name for name in ("package.json", "package-lock.json")}
    wanted: dict[str, str] = json.loads(inputs["package.json"].read_text())["terminalSupervisor"]["vendor"]
    state = digest(inputs)
    complete = all((vendor / name).is_file() for name in wanted)
    if not rebuild and complete and (vendor / _DIGEST).is_file() and (vendor / _DIGEST).read_text() == state:
        return vendor
    await npm(["ci", "--ignore-scripts"], cwd=directory, progress=progress)
    if vendor.exists():
        shutil.rmtree(vendor)
    vendor.mkdir()
    for name, source in wanted.items():
        copy = vendor / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(directory / "node_modules" / source, copy)
        except FileNotFoundError:
            raise ConfigurationError(f"the page wants {source}, which its npm packages do not have") from None
    (vendor / _DIGEST).write_text(state)
    return vendor
