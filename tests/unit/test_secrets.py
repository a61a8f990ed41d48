"""No secret is in a text that people read, however it is spelled there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.error_texts import classify, one_line
from simple_queue_server.secrets import is_secret_name, masked

SECRET_OPTIONS = (
    "secret_access_key session_token pass password password2 key_pem key sas_url connection_string client_secret token "
    "bearer_token access_grant passphrase api_key api_password api_secret service_account_credentials authorization "
    "sse_customer_key sse_customer_key_base64 otp_secret_key master_keys mnemonic link_password refresh_token cookies "
    "private_access_key auth_token key_file_pass 2fa headers session_id client_salted_key_pass config_credentials"
)
HARMLESS = "provider endpoint region access_key_id env_auth type no_check_bucket host user token_url key_file"

secrets = st.text(st.sampled_from("abXYZ019+/'\",:=& \\"), min_size=1, max_size=12).map(
    lambda text: f"hunter2{text}2retnuh"
)
"""Words that begin and end with what must not be seen."""


def quoted(value: str, mark: str) -> str:
    return f"{mark}{value.replace(mark, mark * 2)}{mark}"


@st.composite
def connection_strings(draw: st.DrawFn) -> str:
    options = ["region=eu"]
    for name in draw(st.lists(st.sampled_from(SECRET_OPTIONS.split()), min_size=1, max_size=3, unique=True)):
        value = draw(secrets)
        mark = draw(st.sampled_from("'\""))
        plain = not set(value) & set("'\",:& \\") and draw(st.booleans())
        options.append(f"{name}={value if plain else quoted(value, mark)}")
    inner = ",".join([draw(st.sampled_from([":s3", "s3", "my remote"])), *draw(st.permutations(options))]) + ":bucket"
    if draw(st.booleans()):
        return f":crypt,remote={quoted(inner, draw(st.sampled_from(chr(39) + chr(34))))},password=hunter2:"
    return inner


@given(connection_strings())
def test_no_connection_string_shows_a_secret(text: str) -> None:
    for message in (
        text,
        f"failed for {json.dumps(text)}: no",
        f"error in {text!r}: x",
        json.dumps({"m": json.dumps(text)}),
    ):
        assert "hunter2" not in masked(message), message
        assert "2retnuh" not in masked(message), message
        assert "hunter2" not in one_line(message) + classify(message).reason


@given(secrets.filter(lambda secret: not set(secret) & set(" \"'\\")), st.sampled_from(SECRET_OPTIONS.split()))
def test_no_flag_variable_or_address_shows_a_secret(secret: str, name: str) -> None:
    flag = name.replace("_", "-")
    for message in (
        f'starting with parameters ["rclone" "--s3-{flag}={secret}"]',
        f'["rclone" "--s3-{flag}" "{secret}"]',
        f'Invalid value when setting --x from environment variable RCLONE_S3_{name.upper()}="{secret}": no',
        f'Get "https://user:{secret.replace("/", "%2F")}@example.org/a": EOF',
        f'Put "https://s3.example.org/b?X-Amz-Credential={secret}&X-Amz-Signature={secret}": EOF',
        f"{name} = {secret.translate(str.maketrans('', '', ',:&'))}",
    ):
        assert "hunter2" not in masked(message), message
        assert "2retnuh" not in masked(message), message


@pytest.mark.parametrize("text", ["Authorization: Bearer hunter2", "X-Auth-Token: hunter2", '"Cookie": "a=hunter2"'])
def test_no_header_shows_a_secret(text: str) -> None:
    assert "hunter2" not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "object not found",
        "failed to open source object: open /srv/a,b=c/key.txt: permission denied",
        'Get "http://127.0.0.1:9000/bucket/a@2x.png": connection refused',
        "s3,provider=AWS,region=eu,access_key_id=AKID:bucket",
        "the target is not what was copied: its md5 is 0123, the source has 4567",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_the_names_of_secrets_are_recognised() -> None:
    assert [name for name in SECRET_OPTIONS.split() if not is_secret_name(name)] == []
    assert [name for name in HARMLESS.split() if is_secret_name(name)] == []


def test_a_long_text_is_masked_in_no_time() -> None:
    for text in ("token" * 20_000, "a," * 50_000, "key='" * 20_000, "://" * 30_000 + "=", "x=" + "\\" * 60_000):
        masked(text)


def test_the_user_of_a_broker_is_shown_and_no_password() -> None:
    assert masked("amqps://copier@mq.example.org/") == "amqps://copier@mq.example.org/"
    assert masked("amqps://copier:hunter2@mq.example.org/") == "amqps://mq.example.org/"
    assert masked("https://hunter2@example.org/") == "https://example.org/"
