"""The text of an rc error → its kind, exit status, another try or not, and a reason for a person."""

from __future__ import annotations

import errno

import pytest

from medusa_copier.rclone.error_texts import MAX_REASON_LENGTH, classify, one_line, retry_reason
from medusa_copier.rclone.errors import (
    TEMPORARY_ERROR,
    MachineTrouble,
    NotFound,
    ProcessDied,
    RcloneAway,
    RcloneError,
    RcloneStopped,
    WrongKind,
    is_machine_trouble,
)

S3 = "operation error S3: HeadObject, "
S3_HTTP = "https response error StatusCode: {}, RequestID: {}, HostID: {}, api error {}"


def s3(status: int, error: str, request: str = "", host: str = "") -> str:
    return S3 + S3_HTTP.format(status, request, host, error)


TEMPORARY_NETWORK = [
    S3 + "exceeded maximum number of attempts, 2, https response error StatusCode: 0, RequestID: , HostID: , "
    'request send failed, Head "http://127.0.0.1:19/b/a": dial tcp 127.0.0.1:19: connect: connection refused',
    S3 + 'https response error StatusCode: 0, RequestID: , HostID: , request send failed, Head "http://h/b": EOF',
    "unexpected EOF",
    "read tcp 10.0.0.1:5->10.0.0.2:443: read: connection reset by peer",
    "net/http: TLS handshake timeout",
    "dial tcp: lookup s3.example.org: Temporary failure in name resolution",
    "dial tcp 10.0.0.1:22: i/o timeout",
    "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    "context canceled",
    "write: broken pipe",
]

TEMPORARY_OTHER = [
    s3(503, "SlowDown: Please reduce your request rate."),
    s3(500, "InternalError: Internal Error"),
    s3(429, "TooManyRequests: Too Many Requests"),
    s3(400, "RequestTimeout: Your socket connection was not read from in time"),
    "googleapi: Error 403: User Rate Limit Exceeded., userRateLimitExceeded",
    "failed to stat: HTTP Error: 503 Service Unavailable",
    "Update mkParentDir failed: Locked: 423 Locked",
    "corrupted on transfer: md5 hashes differ",
    "can't copy - source file is being updated (size changed from 1 to 2)",
    "something that nobody has seen before",
]

PERMANENT = [
    'failed to open source object: Object in GLACIER, restore first: bucket="b", key="film/1.mov"',
    s3(403, "Forbidden: Forbidden"),
    s3(403, "SignatureDoesNotMatch: The request signature we calculated does not match"),
    s3(403, "InvalidAccessKeyId: The Access Key Id you provided does not exist in our records."),
    s3(404, "NoSuchBucket: The specified bucket does not exist"),
    s3(403, "QuotaExceeded: Too much"),
    'didn\'t find section in config file ("ghost")',
    'didn\'t find backend called "nosuch"',
    "input too short when revealing password - is it obscured?",
    "open /mnt/x: permission denied",
    "open /mnt/" + "x" * 300 + ".partial: file name too long",
    "write /mnt/x.partial: no space left on device",
    "preallocate: file too big for remaining disk space",
    "write /mnt/x.partial: disk quota exceeded",
    "failed to stat: HTTP Error: 403 Forbidden",
    "read metadata failed: 507 Insufficient Storage: 507 Insufficient Storage",
    'failed to stat: Head "http://no.such.host/a": dial tcp: lookup no.such.host: no such host',
    "ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password]",
    'Head "https://h/": tls: failed to verify certificate: x509: certificate has expired',
    "can't move object - incompatible remotes",
]


@pytest.mark.parametrize("text", TEMPORARY_NETWORK)
def test_failures_of_the_network_are_worth_another_try_and_exit_5(text: str) -> None:
    error = classify(text)
    assert (error.exit_status, error.transient) == (5, True)


@pytest.mark.parametrize("text", TEMPORARY_OTHER)
def test_busy_servers_and_unknown_failures_are_worth_another_try_and_exit_1(text: str) -> None:
    error = classify(text)
    assert (error.exit_status, error.transient) == (1, True)


@pytest.mark.parametrize("text", PERMANENT)
def test_what_someone_must_change_first_fails_at_once_and_exits_1(text: str) -> None:
    error = classify(text)
    assert (error.exit_status, error.transient) == (1, False)


@pytest.mark.parametrize(
    "text",
    [
        "object not found",
        "directory not found",
        "error in ListJSON: directory not found",
        "failed to open source object: open /src/dangling: no such file or directory",
    ],
)
def test_nothing_at_the_source_exits_3(text: str) -> None:
    error = classify(text)
    assert isinstance(error, NotFound)
    assert (error.exit_status, error.transient) == (3, False)


@pytest.mark.parametrize(
    "text",
    [
        "is a directory not a file",
        "is a file not a directory",
        "lstat /src/a.txt/b: not a directory",
    ],
)
def test_a_directory_for_a_file_or_a_file_for_a_directory_is_the_wrong_kind(text: str) -> None:
    error = classify(text)
    assert isinstance(error, WrongKind)
    assert (error.exit_status, error.transient) == (1, False)


@pytest.mark.parametrize("name", ["i/o timeout", "throttle", "unexpected EOF", "503"])
def test_the_words_in_a_files_name_mean_nothing(name: str) -> None:
    error = classify(f"open /mnt/{name}.txt: permission denied")
    assert (error.exit_status, error.transient) == (1, False)


def test_s3s_ceremony_becomes_short_without_losing_a_fact() -> None:
    assert one_line(s3(403, "Forbidden: Forbidden")) == "S3 HeadObject: 403 Forbidden"
    assert one_line(s3(400, "BadRequest: Bad Request", "05FE", "aG9zdA==")) == (
        "S3 HeadObject: 400 BadRequest (request 05FE)"
    )
    assert one_line(s3(503, "SlowDown: Please reduce your request rate.", "05FE")) == (
        "S3 HeadObject: 503 SlowDown: Please reduce your request rate. (request 05FE)"
    )
    assert one_line(TEMPORARY_NETWORK[0]) == (
        'S3 HeadObject: Head "http://127.0.0.1:19/b/a": dial tcp 127.0.0.1:19: connect: connection refused'
    )
    assert one_line("multipart upload: " + s3(404, "NoSuchUpload: gone", "1")) == (
        "multipart upload: S3 HeadObject: 404 NoSuchUpload: gone (request 1)"
    )


@pytest.mark.parametrize(
    "text",
    [
        'Get "https://user:hunter2@example.org/a": EOF',
        'Put "https://s3.example.org/b/a?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2": EOF',
        'didn\'t find section in config file ("s3,secret_access_key=hunter2")',
        'starting with parameters ["rclone" "--s3-secret-access-key=hunter2" "--password-command=echo hunter2"]',
        "failed to create file system for \"s3,provider=AWS,session_token='hunter2':b\": no",
    ],
)
def test_a_reason_holds_no_secret(text: str) -> None:
    assert "hunter2" not in one_line(text)


def test_a_reason_is_one_line_of_a_reasonable_length() -> None:
    page = "failed: <!DOCTYPE HTML>\n<html>\n" + "<p>no</p>\n" * 50 + "</html>: 501 Unsupported"
    assert one_line(page) == "failed: (an HTML page): 501 Unsupported"
    assert one_line("open /mnt/new\nline: is gone\r\n") == "open /mnt/new line: is gone"
    assert len(one_line("x " * 10_000)) == MAX_REASON_LENGTH


def test_only_a_reason_that_is_too_long_is_shortened() -> None:
    longest = f"open {'d' * (MAX_REASON_LENGTH - 10)}: no"
    assert len(longest) < MAX_REASON_LENGTH
    fits = longest + "!" * (MAX_REASON_LENGTH - len(longest))
    assert one_line(fits) == fits
    too_long = one_line(fits + "!")
    assert len(too_long) < len(fits)
    assert too_long.startswith("open ddd")
    assert too_long.endswith(fits[-8:] + "!")


def test_the_reason_of_a_panic_is_what_it_panicked_about() -> None:
    text = 'panic received: fatal error: Failed to load config file "/c": unable to decrypt configuration'
    assert one_line(text) == 'Failed to load config file "/c": unable to decrypt configuration'


DEEP = "/".join(["d" * 250] * 18)


@pytest.mark.parametrize(
    ("text", "beginning", "end"),
    [
        (f"lstat /mnt/{DEEP}/file: file name too long", "lstat /mnt/ddd", "ddd/file: file name too long"),
        (f"rename {DEEP}.partial {DEEP}: no space left on device", "rename ddd", "ddd: no space left on device"),
        (f"open {'a name ' * 500}: permission denied", "open a name", "name : permission denied"),
        ("quota exceeded: " + "details, " * 500, "quota exceeded: details,", "details,"),
        (f"Failed to copy {DEEP}: permission denied: {DEEP}", "Failed to copy ddd", "ddd"),
    ],
)
def test_a_long_reason_keeps_its_cause_and_loses_the_middle_of_its_paths(text: str, beginning: str, end: str) -> None:
    reason = one_line(text)
    assert len(reason) <= MAX_REASON_LENGTH
    assert reason.startswith(beginning)
    assert reason.endswith(end)
    if "permission denied" in text:
        assert "permission denied" in reason


def test_an_archived_object_is_not_retried_and_the_message_names_the_remedy() -> None:
    error = classify('failed to open source object: Object in GLACIER, restore first: bucket="b", key="film/1.mov"')
    assert not error.transient
    assert "film/1.mov is in an archive class of bucket b" in error.reason
    assert error.reason.endswith("restore it, then ask again")


def test_exhausted_resources_of_this_machine_are_distinguished_from_failures() -> None:
    error = classify("failed to open source object: open /srv/a: too many open files")
    assert isinstance(error, MachineTrouble)
    assert not isinstance(classify("open /srv/too many open files: permission denied"), MachineTrouble)
    assert is_machine_trouble(OSError(errno.EMFILE, "Too many open files"))
    assert is_machine_trouble(RuntimeError("can't start new thread"))
    assert not is_machine_trouble(OSError(errno.ENOENT, "No such file"))
    assert not is_machine_trouble(RuntimeError("dictionary changed size during iteration"))


@pytest.mark.parametrize(
    ("status", "may_pass"),
    [(code, True) for code in (408, 423, 425, 429, 500, 502, 503, 504)]
    + [(code, False) for code in (400, 403, 409, 424, 426, 428, 430, 499, 501, 505, 507)],
)
def test_which_answers_of_a_server_may_be_others_the_next_time(status: int, may_pass: bool) -> None:
    assert classify(f"failed to open: HTTP Error: {status} reason").transient is may_pass


@pytest.mark.parametrize("error", [RcloneStopped(), RcloneAway(), ProcessDied(), MachineTrouble("no descriptors")])
def test_errors_that_are_unrelated_to_the_request_are_temporary(error: RcloneError) -> None:
    assert (error.exit_status, error.transient) == (TEMPORARY_ERROR, True)
    assert str(error) == error.reason


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RcloneStopped(), "rclone_stopped"),
        (classify("dial tcp 10.0.0.1:22: i/o timeout"), "network"),
        (classify(s3(503, "SlowDown: Please reduce your request rate.")), "throttled"),
        (classify("something that is not known"), "other"),
    ],
)
def test_why_a_call_is_made_again_is_one_of_a_few_words(error: RcloneError, why: str) -> None:
    assert retry_reason(error) == why


def test_a_webdav_server_whose_parent_directory_is_locked_is_asked_again() -> None:
    error = classify("Update mkParentDir failed: Locked: 423 Locked")
    assert (error.transient, retry_reason(error)) == (True, "other")
