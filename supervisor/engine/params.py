"""How names, filters and credentials are written in a request to the engine."""

import base64
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote, quote_plus


@lru_cache(1024)
def segment(name: str) -> str:
    """Return `name` as one segment of a path, whatever is in it.

    Raises:
        ValueError: it is empty or only dots, which would change the path's meaning.
    """
    if not name.strip("."):
        raise ValueError(f"not a name: {name!r}")
    return quote(name, safe=":@")


@lru_cache(1024)
def image_path(name: str) -> str:
    """Return an image's name as path segments: its slashes stay, what else is special is escaped."""
    return "/".join(segment(part) for part in name.split("/"))


def encode_query(params: Mapping[str, Any] | None) -> str:
    """Return `params` as a query string.

    Booleans become 1 and 0, text stays, a list is the parameter repeated, anything else becomes JSON; None is
    left out.
    `bytes` are percent-encoded as they are, for the one parameter whose value is not text (detach keys).
    """
    parts: list[str] = []
    for key, value in (params or {}).items():
        # The same few filters are asked for again and again.
        escape = _escaped_filters if key == "filters" else quote_plus
        parts += [f"{key}={escape(_text(each))}" for each in _several(value) if each is not None]
    return "&".join(parts)


@lru_cache(256)
def _escaped_filters(filters: str | bytes) -> str:
    return quote_plus(filters)


def _several(value: Any) -> Iterable[Any]:
    return cast("Iterable[Any]", value) if isinstance(value, list | tuple) else (value,)


def _text(value: Any) -> str | bytes:
    if isinstance(value, bool):
        return "1" if value else "0"
    return value if isinstance(value, str | bytes) else json.dumps(value)


def clean_filters(filters: Mapping[str, Any] | None) -> str | None:
    """Return `filters` as the JSON that the engine reads (`map[string][]string`): single values become lists
    of one.

    Raises:
        TypeError: not a mapping.
    """
    if filters is None:
        return None
    if not isinstance(filters, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("filters must be a mapping")
    return json.dumps({key: _strings(value) for key, value in filters.items()})


def _strings(value: Any) -> list[str]:
    return [
        ("true" if each else "false") if isinstance(each, bool) else str(each) for each in _several(value)
    ]


def registry_auth(auth: Mapping[str, Any] | str | bytes, registry: str | None = None) -> str:
    """Return the value of an `X-Registry-Auth` header.

    Args:
        auth: a mapping (`username`, `password`; or `identitytoken`; or `auth` with the following), or base64
            of `user:password`.
        registry: address of the registry that the credentials are for.

    Raises:
        TypeError, ValueError: `auth` is something else. The text does not show it.
    """
    if isinstance(auth, Mapping):
        if "identitytoken" not in auth and "auth" in auth:
            return registry_auth(auth["auth"], registry)
        fields = dict(auth)
        if registry and "identitytoken" not in auth:
            fields["serveraddress"] = registry
    elif isinstance(auth, str | bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        username, separator, password = base64.b64decode(auth).decode().partition(":")
        if not separator:
            raise ValueError("auth must be base64 of user:password")
        fields = {"username": username, "password": password, "email": None, "serveraddress": registry}
    else:
        raise TypeError("auth must be a mapping, or base64 of user:password")
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode("ascii")
