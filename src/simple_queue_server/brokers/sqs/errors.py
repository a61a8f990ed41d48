"""Classifies SQS's errors by what they mean for us. Recognises botocore's errors without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import structlog

from simple_queue_server.errors import BrokerError

Kind: TypeAlias = Literal["unavailable", "denied", "missing", "refused"]

DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "KmsAccessDenied",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
PASSING: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "KmsThrottled",
        "OverLimit",
        "QueueDeletedRecently",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
GONE: Final = frozenset({"QueueDoesNotExist", "NonExistentQueue"})

log = structlog.stdlib.get_logger("simple_queue_server")


class SqsError(BrokerError):
    """A call that failed.

    ``kind``: ``unavailable`` is transient (network, throttling, 5xx), ``denied`` needs an operator (credentials,
    permissions), ``missing`` is a queue that doesn't exist, ``refused`` will never succeed unchanged.
    """

    def __init__(self, kind: Kind, code: str, message: str) -> None:
        super().__init__(message)
        self.kind: Final = kind
        self.code: Final = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.code, str(self))


def read_error(error: Exception) -> tuple[Kind, str, str]:
    """The kind, code and text of an error of botocore, aiohttp or the system."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:  # SQS itself answered
        code = str(response["Error"].get("Code", "")).rpartition(".")[2]
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _kind(code, status), code, str(response["Error"].get("Message", ""))
    code = type(error).__name__
    if code == "ParamValidationError":
        return "refused", code, str(error)
    if any(word in code for word in ("Credential", "Token", "SSO", "Profile")):
        return "denied", code, str(error)
    return "unavailable", code, str(error)


def entry_error(failed: Mapping[str, Any]) -> SqsError:
    """The error of one entry of a batch, from the reply's ``Failed``."""
    code = str(failed.get("Code", "")).rpartition(".")[2]
    kind = _kind(code, 400 if failed.get("SenderFault") else 500)
    return SqsError(kind, code, f"SQS refused an entry: {failed.get('Message') or code} ({code})")


def report(error: SqsError, **fields: Any) -> None:
    """Log a failed call that will be retried: transient errors as warnings, others as errors."""
    level = log.warning if error.kind == "unavailable" and error.code != "QueueDeletedRecently" else log.error
    level("sqs_call_failed", error=str(error), code=error.code, **fields)


def _kind(code: str, status: int) -> Kind:
    if code in GONE:
        return "missing"
    if code in DENIED:
        return "denied"
    if code in PASSING or status >= 500 or status == 429:
        return "unavailable"
    return "denied" if status in (401, 403) else "refused"
