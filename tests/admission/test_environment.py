import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.environment import MAX_VARIABLES, filter_client_environment


def test_what_the_client_sends() -> None:
    sent = {"ABLY_WEB_CLI_MODE": "true", "PS1": "ably> "}
    assert filter_client_environment(sent) == sent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TERM", "xterm-256color"),
        ("COLORTERM", "truecolor"),
        ("LANG", "de_DE.UTF-8@euro"),
        ("LC_ALL", "C.UTF-8"),
        ("LC_CTYPE", ""),
        ("PS1", "$ "),
        ("PS1", r"\[\e[1;32m\]\u@\h:\w\$\[\e[0m\] "),
        ("PS1", "żółw 🐢 "),
        ("PS1", "$HOME "),
    ],
)
def test_accepted(name: str, value: str) -> None:
    assert filter_client_environment({name: value}) == {name: value}


NEVER = [
    "PATH",
    "HOME",
    "SHELL",
    "ENV",
    "BASH_ENV",
    "BASH_FUNC_ls%%",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PROMPT_COMMAND",
    "PS0",
    "PS2",
    "PS4",
    "IFS",
    "SHELLOPTS",
    "BASHOPTS",
    "CDPATH",
    "INPUTRC",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
    "GIT_SSH_COMMAND",
    "GIT_PAGER",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "BROWSER",
    "LESSOPEN",
    "TERMINFO",
    "TERMCAP",
    "http_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "OPENSSL_CONF",
    "npm_config_prefix",
    "NPM_CONFIG_USERCONFIG",
    "TMPDIR",
    "GCONV_PATH",
    "LOCPATH",
    "ABLY_API_KEY",
    "ABLY_ACCESS_TOKEN",
    "ABLY_ENDPOINT",
    "ABLY_CONTROL_HOST",
    "ABLY_TOKEN",
    "JAVA_TOOL_OPTIONS",
    "VIMINIT",
    "path",
    "ld_preload",
    "HISTFILE",
]


@pytest.mark.parametrize("name", NEVER)
def test_never_accepted_even_when_the_operator_lists_it(name: str) -> None:
    assert filter_client_environment({name: "x"}) == {}
    assert filter_client_environment({name: "x"}, [name]) == {}


@pytest.mark.parametrize(
    "name",
    ["", "A=B", "A B", "1A", "A\n", "ÄÖ", "A" * 65, "LC_A=B", "TERM ", "LC_ALL\n"],
)
def test_names_that_are_none(name: str) -> None:
    assert filter_client_environment({name: "x"}, [name]) == {}


@pytest.mark.parametrize("name", ["LC_", "LC_all", "term", "EXTRA"])
def test_names_that_nobody_lists(name: str) -> None:
    assert filter_client_environment({name: "x"}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TERM", "xterm; id"),
        ("TERM", "../../tmp/terminfo"),
        ("TERM", "x" * 65),
        ("LANG", "$(id)"),
        ("LANG", "a[$(id)]"),
        ("LC_ALL", "`id`"),
        ("LC_ALL", "en_US\n"),
        ("ABLY_WEB_CLI_MODE", "true\x00"),
        ("PS1", "$(id)"),
        ("PS1", "`id`"),
        ("PS1", "${LANG@P}"),
        ("PS1", "$[LANG]"),
        ("PS1", r"\$(id)"),
        ("PS1", "a\nb"),
        ("PS1", "\x1b]52;c;?\x07"),
        ("PS1", "\x9b6n"),
        ("PS1", "x" * 1025),
        ("EXTRA", "a\x00b"),
        ("EXTRA", "a\nb"),
    ],
)
def test_values_that_are_refused(name: str, value: str) -> None:
    assert filter_client_environment({name: value}, ["EXTRA"]) == {}


def test_names_of_the_operator() -> None:
    wanted = {"EXTRA": "any text; $(really)", "OTHER": "x"}
    assert filter_client_environment(wanted, ["EXTRA"]) == {"EXTRA": "any text; $(really)"}


def test_number_of_variables() -> None:
    names = [f"EXTRA_{number}" for number in range(100)]
    assert len(filter_client_environment(dict.fromkeys(names, ""), names)) == MAX_VARIABLES


@given(st.dictionaries(st.text(), st.text()))
def test_whatever_comes_only_listed_names_pass(requested: dict[str, str]) -> None:
    for name, value in filter_client_environment(requested).items():
        assert name in ("ABLY_WEB_CLI_MODE", "TERM", "COLORTERM", "LANG", "PS1") or name.startswith("LC_")
        assert "\x00" not in value


BASH = shutil.which("bash")


@pytest.mark.parametrize(
    "prompt",
    [
        "$(echo RUN)",
        "`echo RUN`",
        "${LANG@P}",
        "$[LANG]",
        "$((LANG))",
        "${x:-$(echo RUN)}",
        r"\$(echo RUN)",
        "$\\(echo RUN)",
        "$LANG",
        "$ (echo RUN)",
    ],
)
def test_bash_runs_nothing_of_a_prompt_that_passes(prompt: str) -> None:
    """The second line of a prompt's defence, against bash itself: variables that carry a command, prompts
    that expand them.
    """
    assert BASH is not None
    accepted = filter_client_environment(
        {"PS1": prompt, "LANG": "a[$(echo RUN>&2)]", "LC_ALL": "$(echo RUN)"}
    )
    shown = subprocess.run(
        [BASH, "--norc", "-c", 'printf %s "${PS1@P}"'],
        env=accepted,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert "RUN" not in (shown.stdout + shown.stderr).replace("echo RUN", "")
