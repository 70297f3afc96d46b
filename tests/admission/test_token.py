import re

import pytest

from supervisor.admission.token import (
    MAX_COOKIES,
    MAX_TOKENS,
    OneTimeTokens,
    cookie_name,
    cookie_values,
    set_cookie,
)

REUSABLE = "a token for programs"


def test_a_token_works_once() -> None:
    tokens = OneTimeTokens()
    token = tokens.mint()
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", token)
    cookie = tokens.redeem(token)
    assert cookie is not None
    assert cookie != token
    assert tokens.cookie_valid(cookie)
    assert tokens.redeem(token) is None
    assert tokens.cookie_valid(cookie)


def test_what_is_not_a_token_is_worth_nothing() -> None:
    tokens = OneTimeTokens(REUSABLE)
    token = tokens.mint()
    cookie = tokens.redeem(tokens.mint())
    assert cookie is not None
    for guess in (
        "",
        token[:-1],
        token + "x",
        token.swapcase(),
        "x" * 600,
        cookie,
        "\ud800",
        "é",
        REUSABLE + " ",
        REUSABLE[:-1],
    ):
        assert tokens.redeem(guess) is None
        assert not tokens.is_reusable(guess)
    for guess in ("", token, cookie[:-1], REUSABLE, "x" * 600, "\ud800"):
        assert not tokens.cookie_valid(guess)


def test_tokens_are_of_one_process() -> None:
    cookie = OneTimeTokens(REUSABLE).redeem(REUSABLE)
    assert cookie is not None
    assert not OneTimeTokens(REUSABLE).cookie_valid(cookie)


def test_the_reusable_token_works_any_number_of_times() -> None:
    tokens = OneTimeTokens(REUSABLE)
    cookies = {tokens.redeem(REUSABLE) for _ in range(3)}
    assert len(cookies) == 3
    assert all(cookie is not None and tokens.cookie_valid(cookie) for cookie in cookies)
    assert tokens.is_reusable(REUSABLE)


def test_no_reusable_token_is_not_an_empty_one() -> None:
    assert OneTimeTokens().redeem("") is None
    assert not OneTimeTokens("").is_reusable("")


def test_numbers_are_bounded_and_the_oldest_gives_way() -> None:
    tokens = OneTimeTokens()
    minted = [tokens.mint() for _ in range(MAX_TOKENS + 1)]
    assert tokens.redeem(minted[0]) is None
    assert tokens.redeem(minted[1]) is not None
    cookies = [tokens.redeem(tokens.mint()) for _ in range(MAX_COOKIES + 1)]
    assert not tokens.cookie_valid(str(cookies[0]))
    assert tokens.cookie_valid(str(cookies[1]))
    assert re.fullmatch(rf"<OneTimeTokens open=\d+ cookies={MAX_COOKIES}>", repr(tokens))


def test_only_digests_are_kept() -> None:
    tokens = OneTimeTokens(REUSABLE)
    token = tokens.mint()
    cookie = tokens.redeem(tokens.mint())
    kept = repr(vars(tokens))
    assert token not in kept
    assert str(cookie) not in kept
    assert REUSABLE not in kept


@pytest.mark.parametrize("tls", [False, True])
def test_the_cookie(tls: bool) -> None:
    tokens = OneTimeTokens(REUSABLE)
    value = tokens.redeem(REUSABLE)
    assert value is not None
    header = set_cookie(value, 8080, tls=tls)
    first, *attributes = header.split("; ")
    assert first == f"{'__Host-' if tls else ''}terminal-supervisor-8080={value}"
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"} | ({"Secure"} if tls else set())
    assert cookie_values(first, 8080, tls=tls) == [value]


def test_cookies_of_others() -> None:
    name = cookie_name(8080, tls=False)
    header = f"a=b; {name}=planted;{name}=mine ; {name}x=y; x{name}=y; {name}; ={name}=z; {name[:-1]}1=other"
    assert cookie_values(header, 8080, tls=False) == ["planted", "mine", ""]
    assert cookie_values("", 8080, tls=False) == []
    assert cookie_values(header, 8080, tls=True) == []
