"""Attacks on the restricted shell, as data: keys to press, and an effect that must not be seen.

Every effect can be seen: an attack that says `bash` has it in an interactive bash, which test_attacks.py
tries with the very same keys. In all texts `@C` stands for the path of a file that must not come into being,
and `@D` for a directory with the material that `prepare` puts there.
"""

from pathlib import Path

import attrs

SECRET = "SECRET-CONTENT"


@attrs.frozen
class Attack:
    """One attack.

    Attributes:
        keys: what is pressed.
        bash: whether the same keys have the effect in an interactive bash.
        output: a regular expression that must not match the output; empty: the file `@C` must not exist.
        allow: commands that the restricted shell allows meanwhile.
        environment: variables that it is started with.
        bash_options: options of the bash that it is tried on.
        descriptor: the shell inherits a descriptor of the secret file, with the number that `@F` stands for.
        ends: the keys end the shell.
    """

    keys: str | bytes
    bash: bool = True
    output: str = ""
    allow: str = "printf,touch,cat"
    environment: dict[str, str] = attrs.field(factory=dict)
    bash_options: tuple[str, ...] = ("--norc", "--noprofile")
    descriptor: bool = False
    ends: bool = False


def prepare(directory: Path, canary: Path) -> None:
    """Put the material of the attacks into `directory`."""
    evil = f"#!/bin/sh\n/usr/bin/touch {canary}\n"
    (directory / "bin").mkdir()
    for name in ("evil", "script", ".bashrc", ".profile", ".bash_profile", "bin/cat", "bin/ably"):
        (directory / name).write_text(evil)
        (directory / name).chmod(0o755)
    (directory / "secret-file").write_text(SECRET + "\n")
    # The key is in no name of a temporary directory, or the macro would call itself.
    (directory / "inputrc").write_text(f'"Q": "touch {canary}\\n"\n')
    (directory / "sitecustomize.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (directory / "Evil.pm").write_text(f"open(F, '>', '{canary}'); 1;\n")
    (directory / "ably").symlink_to("/usr/bin/touch")


_ESC = "\x1b"
_BEGIN, _END = _ESC + "[200~", _ESC + "[201~"

OPERATORS = {
    "semicolon": Attack("printf a; touch @C\r"),
    "semicolon without blanks": Attack("printf a;touch @C\r"),
    "and": Attack("printf a && touch @C\r"),
    "or": Attack("printf || touch @C\r"),
    "pipe": Attack("printf a | touch @C\r"),
    "pipe with errors": Attack("printf a |& touch @C\r"),
    "background": Attack("touch @C &\r"),
    "redirection": Attack("printf a > @C\r"),
    "redirection without blanks": Attack("printf a>@C\r"),
    "redirection first": Attack(">@C printf a\r"),
    "append": Attack("printf a >> @C\r"),
    "clobber": Attack("printf a >| @C\r"),
    "redirection of errors": Attack("printf a 2> @C\r"),
    "redirection of both": Attack("printf a &> @C\r"),
    "read-write redirection": Attack("printf a <> @C\r"),
    "redirection to a variable descriptor": Attack("printf a {fd}> @C\r"),
    "input redirection": Attack("cat < @D/secret-file\r", output=SECRET),
    "here string": Attack("cat <<< OWN''ED\r", output="OWNED"),
    "here document": Attack("cat << E''OF\rOWN$''ED\rEOF\r", output=r"2004l\r?OWN\$''ED", allow="cat"),
    "process substitution": Attack("printf a <(touch @C)\r"),
    "output process substitution": Attack("printf a >(touch @C)\r"),
    "subshell": Attack("(touch @C)\r"),
    "group": Attack("{ touch @C; }\r"),
    "after exit": Attack("exit 0 > @C\r"),
    "closing quote, then an operator": Attack('printf "a\\\\"; touch @C; printf "b"\r'),
    "backslash in single quotes": Attack("printf 'a\\'; touch @C; printf 'b'\r"),
    "quote within a quote": Attack("printf 'a'\"'\"'b';touch @C\r"),
}

SUBSTITUTIONS = {
    "command substitution": Attack("printf %s $(touch @C)\r"),
    "backticks": Attack("printf %s `touch @C`\r"),
    "command substitution in double quotes": Attack('printf %s "$(touch @C)"\r'),
    "backticks in double quotes": Attack('printf %s "`touch @C`"\r'),
    "single quotes within double quotes": Attack("printf %s \"'$(touch @C)'\"\r"),
    "assignment in an expansion": Attack("printf %s ${x:=$(touch @C)}\r"),
    "arithmetic": Attack("printf %s $((a[$(touch @C)]))\r"),
    "arithmetic in brackets": Attack("printf %s $[a[$(touch @C)]]\r"),
    "index of printf -v": Attack("printf -v 'a[$(touch @C)]' x\r"),
    "index in a test": Attack("[[ a[$(touch @C)] -eq 1 ]]\r"),
    "index in let": Attack("let 'a[$(touch @C)]=1'\r"),
    "prompt expansion": Attack('printf %s "${X@P}"\r', environment={"X": "$(touch @C)"}),
    "command substitution as the command": Attack("$(printf touch) @C\r"),
    "variable as the command": Attack("$X @C\r", environment={"X": "touch"}, allow="printf"),
    "ansi-c quoting as the command": Attack("$'\\164ouch' @C\r", allow="printf"),
    "braces as the command": Attack("{touch,@C}\r", allow="printf"),
    "glob as the command": Attack("/usr/bin/touc? @C\r", allow="printf"),
}

EXPANSIONS = {
    "star": Attack("printf [%s] @D/se*\r", output="secret-file"),
    "question mark": Attack("printf [%s] @D/secret?file\r", output="secret-file"),
    "brackets": Attack("printf [%s] @D/secret[-]file\r", output="secret-file"),
    "braces": Attack("printf [%s] {a,b}\r", output=r"\[a\]\[b\]"),
    "sequence": Attack("printf [%s] {1..3}\r", output=r"\[1\]\[2\]"),
    "tilde": Attack("printf [%s] ~\r", output=r"\[/", environment={"HOME": "@D"}),
    "tilde of a user": Attack("printf [%s] ~root\r", output=r"\[/root\]"),
    "variable": Attack(
        "printf [%s] $ABLY_API_KEY\r", output=r"\[SECRET", environment={"ABLY_API_KEY": SECRET}
    ),
    "variable in braces": Attack(
        'printf [%s] "${ABLY_API_KEY}"\r', output=r"\[SECRET", environment={"ABLY_API_KEY": SECRET}
    ),
    "indirect variable": Attack(
        "printf [%s] ${!ABLY_@}\r", output=r"\[ABLY_API", environment={"ABLY_API_KEY": SECRET}
    ),
    "ansi-c quoting": Attack("printf [%s] $'\\117WNED'\r", output="OWNED"),
    "process id": Attack("printf [%s] $$\r", output=r"\[\d+\]"),
    "shell name": Attack("printf [%s] $0\r", output=r"\[.*sh\]"),
    "last status": Attack("printf [%s] $?\r", output=r"\[0\]"),
    "history, last line": Attack("printf [%s] x\rprintf [%s] !!\r", output=r"\[printf\]"),
    "history, quick substitution": Attack("printf [%s] x\r^x^OWNED\r", output=r"\[OWNED\]"),
    "history, by number": Attack("printf [%s] OWN''ED\r!1\r", output=r"(?s)\[OWNED\].*\[OWNED\]"),
    "history, by word": Attack("printf [%s] OWN''ED\r!pri\r", output=r"(?s)\[OWNED\].*\[OWNED\]"),
}

BUILTINS = {
    "a command that is not allowed": Attack("touch @C\r", allow="printf"),
    "sh -c": Attack("sh -c 'touch @C'\r", allow="printf"),
    "eval": Attack("eval touch @C\r"),
    "exec": Attack("exec touch @C\r"),
    "exec with a redirection": Attack("exec 2> @C\r"),
    "command": Attack("command touch @C\r"),
    "builtin": Attack("builtin eval touch @C\r"),
    "source": Attack("source @D/script\r"),
    "dot": Attack(". @D/script\r"),
    "time": Attack("time touch @C\r"),
    "negation": Attack("! touch @C\r"),
    "coproc": Attack("coproc touch @C\r"),
    "if": Attack("if true; then touch @C; fi\r"),
    "for": Attack("for i in 1; do touch @C; done\r"),
    "while": Attack("while touch @C; do break; done\r"),
    "case": Attack("case a in a) touch @C;; esac\r"),
    "function": Attack("printf() { command touch @C; }\rprintf x\r"),
    "function keyword": Attack("function printf { command touch @C; }\rprintf x\r"),
    "alias": Attack("alias printf='touch @C #'\rprintf x\r"),
    "trap": Attack("trap 'touch @C' DEBUG\rprintf x\r"),
    "prompt command": Attack("PROMPT_COMMAND='touch @C'\r\r"),
    "prompt": Attack("PS1='$(touch @C)'\r\r"),
    "bind": Attack("bind -x '\"q\":touch @C'\rq"),
    "hash": Attack("hash -p @D/evil cat\rcat /dev/null\r"),
    "path for one command": Attack("PATH=@D/bin cat /dev/null\r"),
    "path for the shell": Attack("PATH=@D/bin:$PATH\rcat /dev/null\r"),
    "exported function": Attack("cat() { command touch @C; }; export -f cat; cat /dev/null\r"),
    "mapfile callback": Attack("mapfile -C 'touch @C; :' -c 1 < /etc/passwd\r"),
    "complete command": Attack("complete -C 'touch @C' printf\rprintf x\t"),
    "fc": Attack("printf x\rfc -e 'touch @C' -1\r"),
    "set verbose": Attack("set -x\rprintf OWN''ED\r", output=r"\+ printf"),
    "keys pushed back by a command": Attack(
        "python3 -c 'import fcntl; [fcntl.ioctl(0, 0x5412, bytes([b])) for b in b\"touch @C\\n\"]'\r",
        bash=False,
        allow="python3",
    ),
    "jobs": Attack("sh -c 'kill -STOP $$; touch @C'\rfg\r", allow="sh"),
}

NAMES = {
    "absolute path": Attack("/usr/bin/touch @C\r"),
    "relative path": Attack("./evil\r"),
    "path upwards": Attack("../../../../../../../../usr/bin/touch @C\r"),
    "path through an allowed name": Attack("printf/../touch @C\r", bash=False),
    "path with dots": Attack("/usr/./bin/../bin/touch @C\r"),
    "path in quotes": Attack("'/usr/bin/touch' @C\r"),
    "path with an escaped slash": Attack("\\/usr\\/bin\\/touch @C\r"),
    "path of the loader": Attack("/lib64/ld-linux-x86-64.so.2 /usr/bin/touch @C\r", bash=False),
    "path in /proc": Attack("/proc/self/exe -c 'touch @C'\r"),
    "file in the working directory": Attack("evil\r", environment={"PATH": ".:/usr/bin:/bin"}, allow="evil"),
    "symbolic link in the working directory": Attack(
        "ably @C\r", environment={"PATH": ".:/usr/bin:/bin"}, allow="ably"
    ),
    "allowed name on an evil path": Attack("cat /dev/null\r", environment={"PATH": "@D/bin:/usr/bin:/bin"}),
    "empty name": Attack("'' touch @C\r", bash=False),
    "name with a trailing slash": Attack("touch/ @C\r", bash=False),
    "name with a blank": Attack("'touch ' @C\r", bash=False),
    "name in capitals": Attack("TOUCH @C\r", bash=False),
    "abbreviated name": Attack("tou @C\r", bash=False),
    "quoted name that is not allowed": Attack("t'ou'\"c\"\\h @C\r", allow="printf"),
    "name with a nul": Attack("touch\x00 @C\r", allow="printf"),
    "name from an allow list entry with a comma": Attack("touch,cat @C\r", bash=False, allow="printf"),
    "name with a cyrillic letter": Attack("t\u043euch @C\r", bash=False),
    "name with a soft hyphen": Attack("to\u00aduch @C\r", bash=False, allow="printf"),
    "name with a zero-width joiner": Attack("to\u200duch @C\r", bash=False, allow="printf"),
    "dash c": Attack("-c 'touch @C'\r", bash=False),
    "assignment as a name": Attack("A=1 touch @C\r"),
    "the shell within the shell": Attack(
        "restricted-shell --allow touch\rtouch @C\r", bash=False, allow="printf"
    ),
}

BYTES = {
    "carriage return and line feed": Attack("printf x\r\n/usr/bin/touch @C\r\n"),
    "quoted line feed": Attack("printf x\x16\x0atouch @C\r", allow="printf"),
    "quoted nul": Attack("printf x\x16\x00;touch @C\r"),
    "next line, c1": Attack("printf x\u0085touch @C\u0085", bash=False),
    "next line, bare c1": Attack(b"printf x\x85touch @C\x85", bash=False),
    "line separator": Attack("printf x\u2028touch @C\u2028", bash=False),
    "paragraph separator": Attack("printf x\u2029touch @C\u2029", bash=False),
    "vertical tab and form feed": Attack("printf x\x0btouch @C\x0c", bash=False),
    "fullwidth semicolon": Attack("printf x\uff1btouch @C\r", bash=False),
    "greek question mark": Attack("printf x\u037etouch @C\r", bash=False),
    "overlong line feed": Attack(b"printf x\xc0\x8atouch @C\xc0\x8d", bash=False),
    "overlong slash": Attack(b"\xc0\xafusr\xc0\xafbin\xc0\xaftouch @C\r", bash=False, allow="printf"),
    "overlong semicolon": Attack(b"printf x\xe0\x80\xbbtouch @C\r", bash=False),
    "lead byte before a quote": Attack(b"printf '\xe6'; touch @C; printf '\r"[:-1] + b"'\r"),
    "lead byte before an operator": Attack(b"printf x\xf0; touch @C\r"),
    "lead byte before enter": Attack(b"printf x\xe6\xa5\r;touch @C\r", bash=False),
    "bare c1 csi": Attack(b"\x9bHtouch @C\x9bF", bash=False),
    "bare c1 osc": Attack(b"\x9d0;x\x9ctouch @C", bash=False),
    "high half of a surrogate": Attack(b"printf x\xed\xa0\xbbtouch @C", bash=False),
    "line that is cut to another one": Attack(b"touch" + b" " * 5000 + b"@C\r"),
    "operator behind the limit": Attack(b"printf " + b"a" * 4089 + b"; touch @C\r"),
    "thousands of words": Attack(b"printf %s" + b" x" * 3000 + b" ; touch @C\r"),
    "deleted operator come back": Attack("printf x; touch @C\x17\x17\x19\x19\r"),
}

KEYS = {
    "escape ctrl-e": Attack(f"printf %s $(touch @C){_ESC}\x05"),
    "ctrl-x ctrl-e": Attack("printf x\x18\x05", environment={"EDITOR": "@D/evil"}),
    "ctrl-x ctrl-e by VISUAL": Attack("printf x\x18\x05", environment={"VISUAL": "@D/evil"}),
    "ctrl-x star": Attack("printf @D/secret*\x18*", output="-file"),
    "ctrl-x g": Attack("printf @D/secret*\x18g", output="secret-file"),
    "ctrl-x slash": Attack("printf @D/sec\x18/", output="secret-file", bash=False),
    "alt-slash": Attack(f"printf @D/sec{_ESC}/", output="ret-file"),
    "alt-star": Attack(f"printf @D/sec{_ESC}*", output="secret-file"),
    "alt-g": Attack(f"printf @D/sec{_ESC}g*\x18*", output="secret-file", bash=False),
    "alt-tilde": Attack(f"printf ~roo{_ESC}~", output="oot/"),
    "alt-dollar": Attack(f"printf $ABLY_API{_ESC}$", output="_KEY", environment={"ABLY_API_KEY": SECRET}),
    "alt-at": Attack(f"printf localhos{_ESC}@", output="zzzz", bash=False),
    "alt-bang": Attack(f"whoam{_ESC}!", output=r"whoami|whoam\S*i|\bi "),
    "alt-caret": Attack(f"printf [%s] x\rprintf !!{_ESC}^", output=r"(?s)!!.*\[%s\] x"),
    "alt-dot": Attack(f"printf OWN''ED\rprintf {_ESC}.", output=r"(?s)''ED.*''ED"),
    "alt-ctrl-y": Attack(f"printf OWN''ED\rprintf {_ESC}\x19", output=r"(?s)''ED.*''ED"),
    "tab on a file": Attack("printf @D/sec\t", output="ret-file"),
    "tab on a command that is not allowed": Attack("whoam\t", output=r"whoami|\bi "),
    "tab on a path": Attack("/usr/bin/whoam\t", output=r"whoami|\bi "),
    "tab on a user": Attack("printf ~roo\t", output="oot/|~root"),
    "tab on a variable": Attack("printf $ABLY_API\t", output="_KEY", environment={"ABLY_API_KEY": SECRET}),
    "tab on a substitution": Attack("printf $(touch @C)\t", bash=False),
    "tab on backticks": Attack("`touch @C`/\t", bash=False),
    "ctrl-o": Attack("touch @C\x0f"),
    "key file": Attack("Q", environment={"INPUTRC": "@D/inputrc"}),
    "key file read again": Attack("\x18\x12Q", environment={"INPUTRC": "@D/inputrc"}),
    "keyboard macro": Attack("printf a\x18(;touch @C\x18)\x18e", bash=False),
    "user-defined keys": Attack(f"{_ESC}P0;1|17/746f756368{_ESC}\\touch @C", bash=False),
    "key reprogrammed by xterm": Attack(f"{_ESC}[>4;2m{_ESC}[>1u touch @C{_ESC}[13;2u", bash=False),
    "title report": Attack(f"{_ESC}]ltouch @C{_ESC}\\\r", bash=False),
    "icon report": Attack(f"{_ESC}]Ltouch @C{_ESC}\\\r", bash=False),
    "clipboard report": Attack(f"{_ESC}]52;c;touch @C\x07\r", bash=False),
    "status string report": Attack(f"{_ESC}P1$rtouch @C{_ESC}\\\r", bash=False),
    "termcap report": Attack(f"{_ESC}P1+rtouch @C{_ESC}\\\r", bash=False),
    "answer in an apc": Attack(f"{_ESC}_Gtouch @C{_ESC}\\\r", bash=False),
    "answer in a pm": Attack(f"{_ESC}^touch @C{_ESC}\\\r", bash=False),
    "answer in a sos": Attack(f"{_ESC}Xtouch @C{_ESC}\\\r", bash=False),
    "cursor report with a command": Attack(f"{_ESC}[1;1Rtouch @C{_ESC}[1;1R", bash=False),
    "ctrl-z at the prompt": Attack("touch @C\x1a", bash=False),
    "ctrl-backslash at the prompt": Attack("touch @C\x1c", bash=False),
    "ctrl-d in a line": Attack("touch @C\x04", bash=False),
}

PASTES = {
    "pasted line": Attack(f"{_BEGIN}touch @C\r{_END}", bash=False),
    "pasted lines": Attack(f"{_BEGIN}printf x\rtouch @C\r{_END}\r", allow="printf"),
    "paste that does not end": Attack(f"{_BEGIN}touch @C\r\r\r", bash=False),
    "paste that begins twice": Attack(f"{_BEGIN}{_BEGIN}touch @C\r{_END}", bash=False),
    "paste with a wrong end": Attack(
        f"{_BEGIN}touch @C{_ESC}[201;1~\r{_ESC}[202~\r{_ESC}[0201~\r", bash=False
    ),
    "paste with half an end": Attack(f"{_BEGIN}touch @C{_ESC}[20\r", bash=False),
    "paste with ctrl-c": Attack(f"{_BEGIN}x\x03touch @C\r{_END}", bash=False),
    "paste with ctrl-d": Attack(f"{_BEGIN}\x04\x04touch @C\r{_END}", bash=False),
    "paste with ctrl-o": Attack(f"{_BEGIN}touch @C\x0f{_END}", bash=False),
    "paste with ctrl-x ctrl-e": Attack(
        f"{_BEGIN}touch @C\x18\x05{_END}", bash=False, environment={"EDITOR": "@D/evil"}
    ),
    "paste with escape enter": Attack(f"{_BEGIN}touch @C{_ESC}\r{_END}", bash=False),
    "paste with a line feed": Attack(f"{_BEGIN}touch @C\n{_END}", bash=False),
    "paste within an osc": Attack(f"{_ESC}]0;{_BEGIN}touch @C\r{_END}", bash=False),
    "paste within a search": Attack(f"\x12{_BEGIN}touch @C\r{_END}", bash=False),
    "paste with a substitution and escape ctrl-e": Attack(f"{_BEGIN}$(touch @C){_ESC}\x05{_END}", bash=False),
    "end without begin": Attack(f"touch @C{_END}", bash=False),
}

STARTING = {
    "PS1 with a substitution": Attack("", environment={"PS1": "$(touch @C)"}),
    "PS1 with backticks": Attack("", environment={"PS1": "`touch @C`"}),
    "PS1 with an escaped substitution": Attack("", environment={"PS1": "\\$(touch @C)"}, bash=False),
    "PS1 with a title": Attack("", environment={"PS1": "\x1b]0;OWNED\x07$ "}, output="\x1b\\]0;OWNED"),
    "PROMPT_COMMAND": Attack("", environment={"PROMPT_COMMAND": "touch @C"}),
    "PS0": Attack("printf x\r", environment={"PS0": "$(touch @C)"}),
    "SHELLOPTS": Attack("printf OWN''ED\r", environment={"SHELLOPTS": "xtrace"}, output=r"\+ printf"),
    "imported function": Attack("printf x\r", environment={"BASH_FUNC_printf%%": "() { command touch @C; }"}),
    "BASH_ENV": Attack("bash -c true\r", environment={"BASH_ENV": "@D/script"}, allow="bash"),
    "ENV": Attack("sh -i -c true\r", environment={"ENV": "@D/script"}, allow="sh"),
    "LD_PRELOAD": Attack("cat /dev/null\r", environment={"LD_PRELOAD": "@D/evil"}, output="LD_PRELOAD"),
    "LD_DEBUG": Attack("cat /dev/null\r", environment={"LD_DEBUG": "files"}, output="calling init"),
    "PYTHONPATH": Attack("python3 -c pass\r", environment={"PYTHONPATH": "@D"}, allow="python3"),
    "PERL5OPT": Attack("perl -e 1\r", environment={"PERL5OPT": "-MEvil", "PERL5LIB": "@D"}, allow="perl"),
    "IFS": Attack("sh -c 'printf [%s] $0' aXb\r", environment={"IFS": "X"}, output=r"\[a\]\[b\]", bash=False),
    "HISTFILE": Attack("printf x\rexit\r", environment={"HISTFILE": "@C"}, ends=True),
    "HOME with start-up files": Attack("", environment={"HOME": "@D"}, bash_options=()),
    "ABLY_ variables as code": Attack(
        "printf x\r", environment={"ABLY_X": "() { :; }; touch @C"}, bash=False
    ),
    "inherited descriptor": Attack("cat /proc/self/fd/@F\r", output=SECRET, descriptor=True),
}

ATTACKS = {
    f"{group}: {name}": attack
    for group, attacks in {
        "operator": OPERATORS,
        "substitution": SUBSTITUTIONS,
        "expansion": EXPANSIONS,
        "builtin": BUILTINS,
        "name": NAMES,
        "bytes": BYTES,
        "key": KEYS,
        "paste": PASTES,
        "start": STARTING,
    }.items()
    for name, attack in attacks.items()
}
