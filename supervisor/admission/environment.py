"""What a browser may put into the environment of a session's command: little, by name, and in a harmless
form.

Variables are a way into a shell. `BASH_ENV` runs a file, `LD_PRELOAD` loads one, `PATH` replaces every
command, and bash expands `PS1` each time that it prompts: `$(…)` in it is a command. So names come from an
allow list, and an entry of the list that the operator adds can never be one of the names that make programs
run or load something. A variable that does not pass is left out: the session starts without it, as it does
when a client sets none.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

MAX_VARIABLES: Final = 32
MAX_VALUE_LENGTH: Final = 1024
"""Characters of a value; a prompt with colours has about 100."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

# A locale, a terminal type, a flag. Nothing in it has a meaning to a shell, also when bash's arithmetic or
# `@P` expands it again.
_WORD: Final = re.compile(r"[A-Za-z0-9_.@:+-]{0,64}")
_WORD_NAMES: Final = re.compile(r"ABLY_WEB_CLI_MODE|TERM|COLORTERM|LANG|LC_[A-Z]{1,32}")

# Whatever bash would run, or expand a second time, when it shows a prompt: $(…), ${…}, $[…] and backquotes.
_PROMPT_EXPANSION: Final = re.compile(r"\$[({\[]|`")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_NEVER: Final = re.compile(
    r"""
    # where programs, libraries and start-up files come from
    PATH | CDPATH | HOME | SHELL | ENV | TMPDIR | LD_.* | DYLD_.*
    | GCONV_PATH | LOCPATH | NLSPATH | HOSTALIASES | RESOLV_.*
    # shells: expanded or run
    | BASH.* | ZDOTDIR | IFS | SHELLOPTS | PROMPT_COMMAND | PS[02-9] | HISTFILE | INPUTRC
    | GLOBIGNORE | EXECIGNORE | POSIXLY_CORRECT
    # interpreters and tools that load or run what a variable says
    | NODE_.* | NPM_.* | PYTHON.* | PERL.* | RUBY.* | GIT_.* | JAVA_.* | _JAVA_.* | JDK_.* | OPENSSL_.*
    | SSL_.* | CURL_.* | OCLIF_.*
    | EDITOR | VISUAL | PAGER | MANPAGER | BROWSER | LESS.* | TERMINFO.* | TERMCAP | VIM.* | EXINIT | .*_PROXY
    # the credentials and hosts that the server itself sets
    | ABLY_(?!WEB_CLI_MODE).*
    """,
    re.VERBOSE | re.IGNORECASE,
)


def filter_client_environment(
    requested: Mapping[str, str], extra_allow: Iterable[str] = ()
) -> dict[str, str]:
    """Return the variables of `requested` that may be set.

    `ABLY_WEB_CLI_MODE`, `TERM`, `COLORTERM`, `LANG` and `LC_*` may be words; `PS1` may be any text that bash
    does not run; names in `extra_allow` may be any text. No value may hold a control character, ESC included:
    a prompt says it as `\\e`.
    """
    allowed = {name for name in extra_allow if _NAME.fullmatch(name) and not _NEVER.fullmatch(name)}
    accepted: dict[str, str] = {}
    for name, value in requested.items():
        if len(accepted) == MAX_VARIABLES:
            break
        if len(value) <= MAX_VALUE_LENGTH and not _CONTROL.search(value) and _may_be(name, value, allowed):
            accepted[name] = value
    return accepted


def _may_be(name: str, value: str, allowed: set[str]) -> bool:
    if _WORD_NAMES.fullmatch(name):
        return _WORD.fullmatch(value) is not None
    if name == "PS1":
        return _PROMPT_EXPANSION.search(value) is None
    return name in allowed
