"""What can go wrong with rclone, in one tree; and the text of an rc error turned into it.

::

    RcloneError             reason (one line), exit_status, transient
    ├── NotFound            the source isn't there: exit status 3
    ├── WrongKind           a directory where a file was expected, or the other way round
    │   └── SamePlace       the source directory is the target
    ├── BadFilter           a filter pattern that rclone can't parse
    ├── RcloneStopped       rclone itself died or hung, whatever it was asked: worth another try
    │   ├── RcloneAway      it wasn't there, so that it was never asked
    │   └── ProcessDied     a process that worked on one request alone died or hung
    ├── MachineTrouble      this machine can't do it now, whatever it is: the request is held, and never fails for it
    └── RcloneUnusable      rclone can't be started: no binary, too old, a bad flag, a config it can't read

The rc answers an error with text and an HTTP status only: neither the exit status that the command would have
had, nor whether another try could help. Both are read from the text here, after rclone's own rules
(``ShouldRetry`` and ``resolveExitCode`` in its source) and what its command was seen to do.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from simple_queue_server.secrets import masked

OTHER_ERROR: Final = 1
DIRECTORY_NOT_FOUND: Final = 3
TEMPORARY_ERROR: Final = 5

PERMISSION_DENIED: Final = "permission denied"
"""In the message of an error."""

MAX_REASON_LENGTH: Final = 1000
MAX_WORD_LENGTH: Final = 200
"""If a reason is too long, its paths are shortened first, in the middle."""


class RcloneError(Exception):
    """Base of every error of this package.

    ``reason`` is one line for people, without secrets. ``exit_status`` is the exit status that the rclone command would
    have had. ``transient`` means that the same call may succeed a moment later.
    """

    def __init__(self, reason: str, *, exit_status: int = OTHER_ERROR, transient: bool = False) -> None:
        self.reason = masked(reason)
        super().__init__(self.reason)
        self.exit_status = exit_status
        self.transient = transient


class NotFound(RcloneError):
    """There is nothing at the source, or the root itself is missing."""

    def __init__(self, reason: str = "no such file or directory") -> None:
        super().__init__(reason, exit_status=DIRECTORY_NOT_FOUND)


class WrongKind(RcloneError):
    """A directory was found where a file was expected, or a file where a directory was."""


class SamePlace(WrongKind):
    """Source and target of a directory copy are the same."""

    def __init__(self) -> None:
        super().__init__("source and target are the same place")


class BadFilter(RcloneError):
    """A filter pattern that rclone can't parse."""


class RcloneStopped(RcloneError):
    """rclone died, hung or isn't running. It is unknown what became of the call."""

    def __init__(self, reason: str = "rclone stopped while it was working on this") -> None:
        super().__init__(reason, exit_status=TEMPORARY_ERROR, transient=True)


class RcloneAway(RcloneStopped):
    """rclone isn't running, or its socket is gone: it never received the call."""


class ProcessDied(RcloneStopped):
    """An rclone process that worked on one request alone died, or hung and was killed."""


class MachineTrouble(RcloneError):
    """This machine can't do it at the moment: the run directory can't be written, file descriptors, processes or
    memory have run out, or the rclone binary is missing. It says nothing about the request, and never counts as
    one of its attempts.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, exit_status=TEMPORARY_ERROR, transient=True)


class RcloneUnusable(RcloneError):
    """rclone can't be started as configured. An operator has to change something."""


# Failures of the network: rclone's command exits 5 for these.
_NETWORK: Final = re.compile(
    r"connection (refused|reset|timed out|aborted)|caused connection abort|broken pipe|no route to host"
    r"|host is down|i/o timeout|operation timed out|TLS handshake timeout|deadline exceeded|Client\.Timeout"
    r"|unexpected EOF|\bEOF$|temporary failure in name resolution|server misbehaving|resource temporarily"
    r"|use of closed (network )?connection|transport connection broken|http: ContentLength="
    r"|server closed idle connection|bad record MAC|stream error:|http2: server sent GOAWAY|context canceled",
    re.IGNORECASE,
)

# A server that asks for patience, sometimes in an answer that is a refusal otherwise (400, 403).
_BUSY: Final = re.compile(
    r"slow ?down|throttl|too ?many ?(requests|write)|rate ?limit|request ?timeout\b|internal ?error|try again",
    re.IGNORECASE,
)

# What stays as it is until someone changes something. A full disk is here on purpose: seconds don't empty it,
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


_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
_MACHINE: Final = re.compile(
    r"too many open files|cannot allocate memory|failed to create new OS thread", re.IGNORECASE
)


def is_machine_trouble(error: BaseException) -> bool:
    """Whether an error, of any library, is caused by exhausted resources of this machine."""
    if isinstance(error, OSError):
        return error.errno in _SCARCE
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, MachineTrouble | MemoryError)


def classify(text: str) -> RcloneError:
    """Translate an error text of the rc to an RcloneError.

    Unrecognised errors count as transient, as they do for the rclone command.
    """
    reason = one_line(text)
    if _NOT_FOUND.search(text):
        return NotFound(reason)
    if _WRONG_KIND.search(text):
        return WrongKind(reason)
    text = _LOCAL_PATH.sub("", text)  # the words in a file's name mean nothing
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
    rest = code if code.replace(" ", "").lower() == message.replace(" ", "").lower() else match["rest"]
    shown_status = f"{status} " if status not in {None, "0"} else ""
    shown_request = f" (request {request})" if request else ""
    return f"S3 {match['operation']}: {shown_status}{rest}{shown_request}"
