"""Makes values fit to be logged: secrets taken out, control characters made visible, sizes bounded.

Strangers decide much of what is in a log line: names, ids, messages of errors about what they sent. Three
things must not come of it. A credential in the log: keys that name one lose their value, and text that looks
like one is replaced wherever it is. A forged line, or an escape sequence in the operator's terminal: control
characters and invisible ones show as escapes. Cost: text, containers and nesting are cut before anything is
searched.

Redaction by shape finds API keys, JSON Web Tokens, 64 hexadecimal digits (signatures, keys; full container
ids too: log the short form), this server's cookies, and `name=value` where the name says secret. It is a net
under careful code, not a replacement for it.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, TypeAlias, TypeVar, cast

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Item = TypeVar("Item")

REDACTED: Final = "[redacted]"

MAX_TEXT: Final = 4096
"""Characters of one logged text."""

MAX_LINES: Final = 16 * 1024
"""Characters of a traceback; the middle is left out."""

MAX_ITEMS: Final = 50
MAX_NESTING: Final = 4

_MARGIN: Final = 512  # searched beyond what is shown, so that a cut does not hide what a secret looks like

_SECRET_KEYS: Final = frozenset(
    {
        *("accesstoken", "apikey", "auth", "authorization", "ciauthtoken", "config", "cookie", "cookies"),
        *("credential", "credentials", "environment", "environmentvariables", "jwt", "key", "password"),
        *("secret", "setcookie", "signature", "signedconfig", "signingsecret", "token", "tokens"),
    }
)
_TYPED_KEYS: Final = frozenset({"data", "input", "keys", "output", "scrollback"})
_MAX_SESSION: Final = 16  # characters of a session's digest; ids are twice as long
_SESSION_KEYS: Final = frozenset({"session", "sessionid"})

_SECRET: Final = re.compile(
    r"""
      eyJ [A-Za-z0-9_-]{6,} \. [A-Za-z0-9_-]{6,} (?: \. [A-Za-z0-9_-]* )?
    | (?<![A-Za-z0-9_-]) [A-Za-z0-9_-]{2,64} \. [A-Za-z0-9_-]{2,64} : [A-Za-z0-9_-]{8,}
    | (?<![0-9A-Fa-f]) [0-9A-Fa-f]{64} (?![0-9A-Fa-f])
    | (?P<header> (?i: \b (?: set- )? cookie ) : [ ]{0,3} ) [^\r\n]+
    | (?P<name>
        terminal-supervisor-[0-9]{1,5}=
      | (?i: \b (?: bearer | basic ) [ ]{1,3} )
      | (?i: (?: token | secret | signature | password | api[_-]?key | cookie | authorization )
          ["']? [ ]{0,3} [=:] [ ]{0,3} ["']? (?: (?: bearer | basic ) [ ]{1,3} )? )
      ) [^\s"'&;,]{4,}
    """,
    re.VERBOSE,
)

# C0, DEL, C1, line separators, direction overrides and other characters without a picture, halves of
# surrogate pairs.
_INVISIBLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def session_digest(session_id: str) -> str:
    """Return what logs and operators call a session: 64 bits of its id's SHA-256. The id itself is half of
    what a resume takes, so it is shown nowhere.
    """
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


def safe_value(key: str, value: object) -> Json:
    """Return what may be logged of `value` under the name `key`: plain JSON values of bounded size."""
    return _safe(_normal(key), value, MAX_NESTING)


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` without secrets and control characters, cut to about `limit` characters."""
    shown = _SECRET.sub(_redact, text[: limit + _MARGIN])
    shown = _INVISIBLE.sub(_escape, shown[:limit])
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters)"


def safe_lines(text: str) -> str:
    """Return a traceback, made safe line by line."""
    if len(text) > MAX_LINES:
        text = f"{text[: MAX_LINES // 4]}\n… ({len(text)} characters)\n{text[-MAX_LINES * 3 // 4 :]}"
    return "\n".join(safe_text(line) for line in text.split("\n"))


def _safe(key: str, value: object, depth: int) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**64 else "<large integer>"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if key in _SECRET_KEYS:
        return REDACTED
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        if key in _TYPED_KEYS:
            return f"<{len(value)} characters>"
        if key in _SESSION_KEYS and len(value) > _MAX_SESSION:
            return safe_text(value[:8]) + "…"
        return safe_text(value)
    if isinstance(value, BaseException):
        return safe_text(f"{type(value).__name__}: {value}")
    if isinstance(value, Mapping | Sequence | Set):
        return _safe_container(
            key, cast("Mapping[object, object] | Sequence[object] | Set[object]", value), depth
        )
    return safe_text(str(value))


def _safe_container(
    key: str, value: Mapping[object, object] | Sequence[object] | Set[object], depth: int
) -> Json:
    if depth == 0:
        return f"<{len(value)} items>"
    more = len(value) - MAX_ITEMS
    if isinstance(value, Mapping):
        pairs = [(str(name), item) for name, item in _first(value.items())]
        table: dict[str, Json] = {
            safe_text(name, 64): _safe(_normal(name), item, depth - 1) for name, item in pairs
        }
        return {**table, "…": more} if more > 0 else table
    items = [_safe(key, item, depth - 1) for item in _first(value)]
    return [*items, f"… ({more} more)"] if more > 0 else items


def _first(items: Iterable[Item]) -> Iterable[Item]:
    return itertools.islice(items, MAX_ITEMS)


def _normal(key: object) -> str:
    return re.sub("[^a-z0-9]", "", str(key)[:64].lower())


def _redact(match: re.Match[str]) -> str:
    return (match["header"] or match["name"] or "") + REDACTED


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
