"""Two files about settings, made from `supervisor.settings`: `.env.example` and `docs/settings.md`.

To bring them up to date: `python -m supervisor.provision.env_example > .env.example`, and the same with
`--markdown > docs/settings.md`.
"""

import sys
import textwrap

import attrs

from supervisor.settings import Settings
from supervisor.settings.knob import allowed, written

_HEAD = """\
# Settings of terminal-supervisor, with their defaults. Copy this file to .env and uncomment what you change.
# Variables of the environment win over .env. Durations are in milliseconds, sizes are bytes or have k, m, g.
"""
_MARKDOWN_HEAD = """\
# Settings

Made from `supervisor/settings/`; a test keeps it so.

Who wins: the command line (`--host`, `--port`), then the environment, then `.env` (`--env-file`), then a
TOML file (`terminal-supervisor --config FILE serve`), then the default. The TOML file has the same names in
small letters, and values of their own types:

```toml
port = 8443
container_memory_limit = "512m"
allowed_origins = ["https://example.com"]
```

Variables that end in `_MS` are milliseconds; sizes are bytes, or have `k`, `m`, `g`. Lists are separated by
commas, commands are written as for a shell. What is wrong is told all at once, and nothing starts.
`terminal-supervisor settings` prints what is in effect and where each value comes from.

| variable | default | allowed | |
|---|---|---|---|
"""


def env_example() -> str:
    """Return the text of `.env.example`."""
    parts = [_HEAD]
    for field in attrs.fields(Settings):
        sentence = textwrap.fill(field.metadata["doc"], 100, initial_indent="# ", subsequent_indent="# ")
        parts.append(f"{sentence}\n#{field.metadata['env']}={written(field, field.default)}\n")
    return "\n".join(parts)


def settings_markdown() -> str:
    """Return the text of `docs/settings.md`."""
    rows = [_MARKDOWN_HEAD.rstrip("\n")]
    for field in attrs.fields(Settings):
        default = written(field, field.default)
        shown = f"`{default}`" if default else ""
        sentence = field.metadata["doc"].replace("|", "\\|") + (
            " Secret." if field.metadata["secret"] else ""
        )
        rows.append(f"| `{field.metadata['env']}` | {shown} | {allowed(field)} | {sentence} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(settings_markdown() if "--markdown" in sys.argv else env_example())
