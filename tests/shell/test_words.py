"""From the line to the command's arguments: kept as typed, and nothing else."""

from pathlib import Path

import pytest

from .driver import CTRL_C, ENTER, UP, running

# What is typed behind `printf [%s]`, and the arguments that arrive.
ARGUMENTS: dict[str, tuple[str, list[str]]] = {
    "plain": ("one two", ["one", "two"]),
    "many blanks": ("   one    two   ", ["one", "two"]),
    "single quotes": ("'one two'", ["one two"]),
    "double quotes": ('"one two"', ["one two"]),
    "quotes within a word": ("a'b c'd\"e f\"g", ["ab cde fg"]),
    "empty arguments": ("'' \"\" x", ["", "", "x"]),
    "double within single": ("'say \"hi\"'", ['say "hi"']),
    "single within double": ('"it\'s"', ["it's"]),
    "escaped double quote": (r'"say \"hi\""', ['say "hi"']),
    "escaped backslash in double quotes": (r'"a\\b"', [r"a\b"]),
    "other backslashes in double quotes": (r'"\n\$\`\x"', [r"\n\$\`\x"]),
    "backslash in single quotes": (r"'a\'", ["a\\"]),
    "escaped blank": (r"one\ two", ["one two"]),
    "escaped quotes": (r"\'one\" two", ["'one\"", "two"]),
    "escaped operators": (r"a\;b\|c\&d\<e\>f\(g\)h\`", ["a;b|c&d<e>f(g)h`"]),
    "json": ('\'{"name": "x", "data": [1, 2]}\'', ['{"name": "x", "data": [1, 2]}']),
    "json, bare": ("{a:[1,2]}", ["{a:[1,2]}"]),
    "star": ("* *.c /e*c/pass*", ["*", "*.c", "/e*c/pass*"]),
    "question mark and brackets": ("?? [a-z]*", ["??", "[a-z]*"]),
    "tilde": ("~ ~root/x", ["~", "~root/x"]),
    "variables": ("$HOME ${HOME} $? $$ $1 $@ $#", ["$HOME", "${HOME}", "$?", "$$", "$1", "$@", "$#"]),
    "variables in double quotes": ('"$HOME ${PATH:-x}"', ["$HOME ${PATH:-x}"]),
    "substitutions in double quotes": ('"$(id) `id` $((1+1))"', ["$(id) `id` $((1+1))"]),
    "operators in single quotes": ("'a;b|c&d<e>f(g)h`i'", ["a;b|c&d<e>f(g)h`i"]),
    "history expansion": ("!! !1 !-1 !printf ^a^b", ["!!", "!1", "!-1", "!printf", "^a^b"]),
    "braces": ("{a,b} {1..3}", ["{a,b}", "{1..3}"]),
    "comment": ("# one #two", ["#", "one", "#two"]),
    "assignment": ("A=1 --x=y", ["A=1", "--x=y"]),
    "dollar quote": (r"$'a\nb'", [r"$a\nb"]),
    "percent and at": ("%1 @file +x -v", ["%1", "@file", "+x", "-v"]),
    "options": ("-- -n --help", ["--", "-n", "--help"]),
    "unicode": ("日本語 'ñ ü' 😀", ["日本語", "ñ ü", "😀"]),
    "no-break space is no blank": ("a\u00a0b", ["a\u00a0b"]),
    "quoted word that is a name": ("'printf'", ["printf"]),
}

OPERATORS = [";", "|", "&", "<", ">", "(", ")", "`"]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_arrive_as_typed(shell_binary: Path, name: str) -> None:
    typed, arguments = ARGUMENTS[name]
    with running(shell_binary, "printf", columns=200) as shell:
        # The format comes back once for each argument, so their number and borders show.
        assert shell.run(f"printf [%s] {typed}") == "".join(f"[{argument}]" for argument in arguments)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("form", ["printf a {0} b", "printf a{0}b", "{0} printf a", "printf a {0}", "{0}"])
def test_operators_refuse_the_whole_line(shell_binary: Path, operator: str, form: str) -> None:
    with running(shell_binary, "printf", columns=100) as shell:
        shown = shell.run(form.format(operator))
        assert shown == f"'{operator}': this shell runs single commands only; quote it to pass it on as text"
        shell.press(UP)
        shell.wait_for_line(form.format(operator))  # there to be corrected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("printf 'a", "a quote is not closed: nothing was run"),
        ('printf "a', "a quote is not closed: nothing was run"),
        ('printf "a\\"', "a quote is not closed: nothing was run"),
        ("printf a\\", "the line ends in a backslash: nothing was run"),
        ("''", "'': not a command of this shell; `help` lists those that are"),
        ('"" printf', "'': not a command of this shell; `help` lists those that are"),
        ("'printf '", "printf : not a command of this shell; `help` lists those that are"),
        ("PRINTF a", "PRINTF: not a command of this shell; `help` lists those that are"),
        ("X=1 printf a", "X=1: not a command of this shell; `help` lists those that are"),
        ("! printf a", "!: not a command of this shell; `help` lists those that are"),
        ("/usr/bin/printf a", "/usr/bin/printf: commands are named without a path"),
    ],
)
def test_lines_that_cannot_be_run(shell_binary: Path, line: str, message: str) -> None:
    with running(shell_binary, "printf", columns=100) as shell:
        assert shell.run(line) == message


@pytest.mark.parametrize("line", ["", " ", "     "])
def test_empty_lines_do_nothing(shell_binary: Path, line: str) -> None:
    with running(shell_binary, "false") as shell:
        shell.run("false")
        assert shell.run(line) == ""
        shell.press("exit", ENTER)
        assert shell.wait_for_exit() == 1


def test_quoted_command_names_are_names(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        assert shell.run("'pri'\"ntf\" ok") == "ok"
        assert shell.run("\\printf ok") == "ok"


def test_a_line_of_two_thousand_words(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.enter("printf %s" + " a" * 2043)
        assert b"a" * 2043 + b"\x1b" in shell.output
        shell.press(CTRL_C)


def test_the_name_is_the_first_argument(shell_binary: Path) -> None:
    """Programs see their name as it was typed, not a path."""
    with running(shell_binary, "sh") as shell:
        assert shell.run("sh -c 'echo $0'") == "sh"
