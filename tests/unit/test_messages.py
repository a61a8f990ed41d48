"""Bytes in, typed values out, and back: everything a client can put on a queue."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_queue_server import messages
from simple_queue_server.messages import InvalidRequest, Request, Success, parse_request

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def parsed(body: bytes | str) -> Request:
    request = parse_request(body.encode() if isinstance(body, str) else body, "id-1")
    assert isinstance(request, Request)
    return request


def echoed(pass_through: str) -> bytes:
    """The response's bytes for a request with this ``pass_through``."""
    return messages.success(parsed(f'{{"action":"a","pass_through":{pass_through}}}'), {})


@given(json_values)
def test_pass_through_of_any_json_type_comes_back_unchanged(value: Any) -> None:
    response = json.loads(echoed(json.dumps(value)))
    assert response["pass_through"] == ({} if value is None else value)


@pytest.mark.parametrize("text", ["1.0", "1E5", "1e400", "-0.0", "123456789012345678901234567890", '{"a":1,"a":2}'])
def test_pass_through_comes_back_to_the_byte(text: str) -> None:
    assert f'"pass_through":{text}'.encode() in echoed(text)


def test_pass_through_is_an_empty_object_when_absent_or_null() -> None:
    for body in (
        '{"action":"a"}',
        '{"action":"a","pass_through":null}',
        '{"action":"a","pass_through": null }',
    ):
        assert json.loads(messages.success(parsed(body), {}))["pass_through"] == {}


def test_false_zero_and_empty_pass_through_are_not_taken_for_absent() -> None:
    for text in ("false", "0", '""', "[]"):
        assert json.loads(echoed(text))["pass_through"] == json.loads(text)


def test_parameters_are_an_empty_object_when_absent_or_null() -> None:
    assert parsed('{"action":"a"}').parameters == {}
    assert parsed('{"action":"a","parameters":null}').parameters == {}


def test_numbers_in_parameters_keep_their_size() -> None:
    assert parsed('{"action":"a","parameters":{"n":123456789012345678901234567890}}').parameters["n"] == int(
        "123456789012345678901234567890"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b"   ", "not JSON"),
        (b"Not JSON", "not JSON"),
        (b'{"action":"a"', "not JSON"),
        (b'{"action":"a"} {}', "not JSON"),
        (b'{"action":"a","pass_through":NaN}', "not JSON"),
        (b'{"action":"a","other":nope}', "not JSON"),
        (b'"copyto"', "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"17", "not a JSON object"),
        (b'{"action":"\xff"}', "not UTF-8 (byte 11)"),
        (b'{"action":"a","pass_through":"\xc3"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"action":"a"}', "not JSON"),
        (b'{"action":"a","parameters":{"n":' + b"9" * 5000 + b"}}", "can't be read"),
        (b'{"action":"a","pass_through":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "can't be read"),
        (b'{"action":"a","parameters":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "can't be read"),
    ],
)
def test_a_body_that_is_no_request_is_said_to_be_invalid_and_why(body: bytes, reason: str) -> None:
    request = parse_request(body)
    assert isinstance(request, InvalidRequest)
    assert reason in request.reason
    response = json.loads(messages.invalid(request))
    assert (response["status"], response["message"]) == ("failure", "Invalid Request")
    assert response["pass_through"] == {}
    assert "action" not in response
    assert reason in response["reason"]


def test_an_invalid_request_comes_back_in_the_response() -> None:
    def raw(body: bytes) -> str:
        request = parse_request(body)
        assert isinstance(request, InvalidRequest)
        return str(json.loads(messages.invalid(request))["raw_request"])

    assert raw(b"Not JSON") == "Not JSON"
    assert raw('"Käse"'.encode()) == '"Käse"'
    assert raw(b"\xff\x00") == "\\xff\x00"


@given(st.binary(max_size=200))
def test_no_body_whatever_makes_the_parser_raise(body: bytes) -> None:
    request = parse_request(body)
    if isinstance(request, InvalidRequest):
        assert json.loads(messages.invalid(request))["message"] == "Invalid Request"


@given(
    st.text(max_size=60),
    st.sampled_from(["{", "}", '"', "[", "]", ",", ":", "\\", "\x00", "é", "😀"]),
    st.integers(0, 80),
)
def test_a_damaged_request_is_parsed_or_refused_but_never_crashes(text: str, damage: str, at: int) -> None:
    body = json.dumps({"action": text, "parameters": {"k": text}, "pass_through": [text]}, ensure_ascii=False)
    parse_request((body[:at] + damage + body[at:]).encode("utf-8", "surrogatepass"))


@given(json_values)
def test_an_action_of_any_type_comes_back_in_its_failure(action: Any) -> None:
    request = parse_request(json.dumps({"action": action}).encode())
    if isinstance(request, Request):
        response = json.loads(messages.failure(request, messages.UNRECOGNIZED_ACTION))
        assert response["action"] == action
        assert response["message"] == "Unrecognized Action"
    else:
        assert "out of range" in request.reason or "surrogate" in request.reason


def test_a_response_has_its_extra_fields_at_the_top_level() -> None:
    request = parsed('{"action":"copyto"}')
    assert json.loads(messages.success(request, Success({"a": 1}, {"rclone_status": 0}))) == {
        "action": "copyto",
        "status": "success",
        "parameters": {"a": 1},
        "pass_through": {},
        "rclone_status": 0,
    }
    assert json.loads(messages.failure(request, "no", {"rclone_status": 3})) == {
        "action": "copyto",
        "status": "failure",
        "message": "no",
        "pass_through": {},
        "rclone_status": 3,
    }


@pytest.mark.parametrize("name", sorted(messages.STANDARD_FIELDS))
def test_a_handler_can_not_overwrite_a_field_of_the_contract(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        messages.success(parsed('{"action":"a"}'), Success({}, {name: "mine"}))


def test_responses_are_raw_utf8_not_escapes() -> None:
    assert "grüße".encode() in messages.success(parsed('{"action":"a"}'), {"text": "grüße"})
