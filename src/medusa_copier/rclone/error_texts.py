"""Reads the error texts of rclone and its storages (S3, HTTP, SFTP, local disks): what is wrong, whether to retry, and
one line for people.

rclone's remote control answers an error with text and an HTTP status only: neither the exit status that the command
would have had, nor whether another try could help. Both are read from the text here, after rclone's own rules
(``ShouldRetry`` and ``resolveExitCode`` in its source) and the observed behaviour of its command.
"""

from __future__ import annotations

import re
from typing import Final

from medusa_copier.rclone.errors import (
    TEMPORARY_ERROR,
    MachineTrouble,
    NotFound,
    RcloneError,
    RcloneStopped,
    WrongKind,
)
from simple_queue_server.secrets import masked

MAX_REASON_LENGTH: Final = 1000
MAX_WORD_LENGTH: Final = 200
"""If a reason is too long, its paths are shortened first, in the middle."""

# Failures of the network: rclone's command exits 5 for these.
_NETWORK: Final = re.compile(
    r"connection (refused|reset|timed out|aborted)|caused connection abort|broken pipe|no route to host"
    r"|host is down|i/o timeout|operation timed out|TLS handshake timeout|deadline exceeded|Client\.Timeout"
    r"|unexpected EOF|\bEOF$|temporary failure in name resolution|server misbehaving|resource temporarily"
    r"|use of closed (network )?connection|transport connection broken|http: ContentLength="
    r"|server closed idle connection|bad record MAC|stream error:|http2: server sent GOAWAY|context canceled",
    re.IGNORECASE,
)

# A server that is busy, sometimes with a status that means a permanent refusal otherwise (400, 403).
_BUSY: Final = re.compile(
    r"slow ?down|throttl|too ?many ?(requests|write)|rate ?limit|request ?timeout\b|internal ?error|try again",
    re.IGNORECASE,
)

# Errors that last until someone changes something. A full disk is here on purpose: seconds don't empty it,
# and the client learns the reason at once instead of after three long copies.
_PERMANENT: Final = re.compile(
    r"forbidden|access ?denied|permission denied|unauthori[sz]ed|SignatureDoesNotMatch|InvalidAccessKeyId"
    r"|NoSuchBucket|NoSuchKey|didn't find section in config file|didn't find backend called|load config"
    r"|unable to authenticate|no supported authentication|no such host|certificate|is it obscured"
    r"|file name too long|not a directory|is a directory|not a file|not a regular file|incompatible remotes"
    r"|no space left on device|file too big for remaining disk|quota ?exceeded|file too large"
    r"|read-only file ?system|operation not (permitted|supported)|invalid argument|invalid characters"
    r"|couldn't find method|GLACIER, restore first",
    re.IGNORECASE,
)

_NOT_FOUND: Final = re.compile(
    r"(object|directory) not found$"
    r"|failed to (open source object|open file|get hash \w+ from backend):? .*no such file or directory$",
    re.DOTALL,
)
_WRONG_KIND: Final = re.compile(r"is a directory not a file$|is a file not a directory$|: not a directory$")
_HTTP_STATUS: Final = re.compile(r"(?:StatusCode: |HTTP Error:? |googleapi: Error |: )([1-9]\d\d)\b")
_LOCAL_PATH: Final = re.compile(r"\b[a-z]+ /.*: ", re.DOTALL)

_MACHINE: Final = re.compile(
    r"too many open files|cannot allocate memory|failed to create new OS thread", re.IGNORECASE
)


def classify(text: str) -> RcloneError:
    """Translate an error text of the rc to an RcloneError.

    Unrecognised errors count as transient, as they do for the rclone command.
    """
    reason = one_line(text)
    if _NOT_FOUND.search(text):
        return NotFound(reason)
    if _WRONG_KIND.search(text):
        return WrongKind(reason)
    text = _LOCAL_PATH.sub("", text)  # words in a file's name must not match
    if _MACHINE.search(text):
        return MachineTrouble(reason)
    if _NETWORK.search(text):
        return RcloneError(reason, exit_status=TEMPORARY_ERROR, transient=True)
    return RcloneError(reason, transient=_may_pass(text))


def _may_pass(text: str) -> bool:
    if _BUSY.search(text):
        return True
    if status := _HTTP_STATUS.search(text):
        code = int(status[1])
        return code in {408, 423, 425, 429} or (code >= 500 and code not in {501, 505, 507})
    return not _PERMANENT.search(text)


def retry_reason(error: RcloneError) -> str:
    """Why a call is made again, in one word for metrics."""
    if isinstance(error, RcloneStopped):
        return "rclone_stopped"
    if error.exit_status == TEMPORARY_ERROR:
        return "network"
    return "throttled" if _BUSY.search(error.reason) else "other"


_S3: Final = re.compile(
    r"operation error S3: (?P<operation>\w+), (?:exceeded maximum number of attempts, \d+, )?"
    r"(?:https response error StatusCode: (?P<status>\d+), RequestID: (?P<request>[^,]*), HostID: [^,]*, )?"
    r"(?:api error |request send failed, )?(?P<rest>.*)",
    re.DOTALL,
)
_WRAPPING: Final = re.compile(r"^(panic received: (fatal error: )?|error in ListJSON: )")
_ARCHIVED: Final = re.compile(r"Object in GLACIER, restore first: bucket=\"(.*?)\", key=\"(.*?)\"$")
_HTML: Final = re.compile(r"<!doctype html.*?</html>|<html.*?</html>", re.DOTALL | re.IGNORECASE)


def one_line(text: str) -> str:
    """Reduce ``text`` to one readable line: no line breaks, no credentials, no S3 boilerplate."""
    text = _WRAPPING.sub("", text)
    text = _HTML.sub("(an HTML page)", text)
    text = _ARCHIVED.sub(
        r"\2 is in an archive class of bucket \1 (GLACIER, restore first); restore it, then ask again", text
    )
    text = _S3.sub(_compact_s3, text)
    text = masked(text)
    return _of_length(" ".join(text.split()))


def _of_length(text: str) -> str:
    """Shorten ``text`` in the middle of its paths, if it is too long: the cause is at its beginning or end."""
    if len(text) > MAX_REASON_LENGTH:
        text = " ".join(_without_middle(word, MAX_WORD_LENGTH) for word in text.split(" "))
    return _without_middle(text, MAX_REASON_LENGTH)


def _without_middle(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[: longest - half - 1]}…{text[-half:]}"


def _compact_s3(match: re.Match[str]) -> str:
    """For example ``S3 HeadObject: 403 Forbidden (request 05FE)``: status, code, message, request id."""
    status, request = match["status"], match["request"]
    code, _, message = match["rest"].partition(": ")
    rest = code if code.lower() == message.replace(" ", "").lower() else match["rest"]
    shown_status = f"{status} " if status not in {None, "0"} else ""
    shown_request = f" (request {request})" if request else ""
    return f"S3 {match['operation']}: {shown_status}{rest}{shown_request}"
