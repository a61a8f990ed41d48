"""Tokens: made, kept, configured, recognised."""

import stat
from pathlib import Path

import pytest

from simple_queue_server.errors import SettingsError
from simple_queue_server.http.tokens import Tokens, hash_of, kept_in, new_secret
from simple_queue_server.settings.loader import parse
from simple_queue_server.settings.sections import HttpSection, Settings

SECRET = "a secret of twenty characters or more"


def section(text: str, **environ: str) -> HttpSection:
    settings = parse(f"server: {{name: a}}\nhttp: {text}", Settings, source="a.yaml", environ=environ)
    assert settings.http is not None
    return settings.http


def test_a_token_is_found_by_its_secret_hashed_or_from_the_environment() -> None:
    text = f"{{tokens: [{{name: a, hash: '{hash_of(SECRET)}'}}, {{name: b, token: '${{TOKEN}}', operator: true}}]}}"
    tokens = Tokens.of(section(text, TOKEN=SECRET[::-1]))
    found = [tokens.find(secret) for secret in (SECRET, SECRET[::-1], "other", "", "\ud800")]
    assert [None if each is None else (each.name, each.is_operator) for each in found] == [
        ("a", False),
        ("b", True),
        None,
        None,
        None,
    ]


def test_what_a_token_may_do_is_what_its_section_says() -> None:
    text = f"{{tokens: [{{name: a, hash: '{hash_of(SECRET)}', actions: [copyto], roots: {{x: read, y: read-write}}}}]}}"
    token = Tokens.of(section(text)).find(SECRET)
    assert token is not None
    assert [token.may_ask(action) for action in ("copyto", "copy")] == [True, False]
    uses = [("x", "read"), ("x", "write"), ("y", "read"), ("y", "write"), ("z", "read")]
    assert [token.may_use(root, purpose) for root, purpose in uses] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{tokens: [{name: a}]}", "needs hash or token"),
        ("{tokens: [{name: a, token: short}]}", "at least 20 characters"),
        ("{tokens: [{name: a, hash: abc}]}", "tokens"),
        (f"{{tokens: [{{name: a, token: {'x' * 20}}}, {{name: a, token: {'y' * 20}}}]}}", "two with the name a"),
        ("{listen: 0.0.0.0:80}", "behind_proxy: true"),
        ("{listen: 'copier.example.org:80'}", "configure tls"),
        ("{listen: '127.0.0.1'}", "must be HOST:PORT"),
        ("{listen: 'unix:'}", "must be HOST:PORT"),
        ("{listen: '127.0.0.1:99999'}", "must be HOST:PORT"),
    ],
)
def test_what_can_not_be_is_an_error_that_names_the_remedy(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        section(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{listen: '[::1]:0'}",
        "{listen: 'localhost:1'}",
        "{listen: 'unix:run/http.sock'}",
        "{listen: '0.0.0.0:80', behind_proxy: true}",
        "{listen: '0.0.0.0:443', tls: {cert: a.pem, key: b.pem}}",
    ],
)
def test_what_is_safe_is_taken(text: str) -> None:
    section(text)


def test_a_secret_is_in_no_text_that_shows_the_settings() -> None:
    assert SECRET not in repr(section(f"{{tokens: [{{name: a, token: {SECRET}}}]}}"))


def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "http-token"
    made = kept_in(path)
    assert len(made) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept_in(path) == made
    assert [each.name for each in path.parent.iterdir()] == ["http-token"]


def test_a_token_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http-token"
    path.write_text(new_secret())
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="others may read it"):
        kept_in(path)
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(SettingsError, match="is no token"):
        kept_in(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match="http-token"):
        kept_in(path)
