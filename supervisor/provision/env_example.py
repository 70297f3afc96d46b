"""`.env.example`: every setting with its default and its sentence, made from `supervisor.settings`.

To bring the file up to date: `python -m supervisor.provision.env_example > .env.example`.
"""

import shlex
import sys
import textwrap
from typing import Any

import attrs

from supervisor.settings import KIB, Settings, parse_size

_HEAD = """\
# Settings of terminal-supervisor, with their defaults. Copy this file to .env and uncomment what you change.
# Variables of the environment win over .env. Durations are in milliseconds, sizes are bytes or have k, m, g.
"""
_UNITS = ((KIB * KIB, "m"), (KIB, "k"))


def env_example() -> str:
    """Return the file's text."""
    parts = [_HEAD]
    for field in attrs.fields(Settings):
        sentence = textwrap.fill(field.metadata["doc"], 100, initial_indent="# ", subsequent_indent="# ")
        name = field.metadata["env"]
        value = shown(field.default, name, is_size=field.metadata["parse"] is parse_size)
        parts.append(f"{sentence}\n#{name}={value}\n")
    return "\n".join(parts)


def shown(value: Any, name: str, *, is_size: bool) -> str:
    """Return a default as it is written in a file of variables; parsing it gives the default again."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _joined(value, by_words=name.endswith("COMMAND"))
    if name.endswith("_MS"):
        return f"{value * 1000:.0f}"
    for unit, letter in _UNITS if is_size else ():
        if value % unit == 0:
            return f"{value // unit}{letter}"
    return str(value)


def _joined(words: Any, *, by_words: bool) -> str:
    texts = [str(word) for word in words]
    return shlex.join(texts) if by_words else ",".join(texts)


if __name__ == "__main__":
    sys.stdout.write(env_example())
