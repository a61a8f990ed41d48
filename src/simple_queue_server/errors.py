"""The errors that this package raises, in one tree.

::

    QueueServerError
    ├── Failure             a handler's way to answer a request with a failure
    ├── SettingsError       the configuration is wrong; names the place and the remedy
    └── BrokerError         the broker can't be used
        ├── BrokerGaveUp    it was unavailable for longer than the configuration allows
        └── MessageTooLarge it takes no message of this size

Errors of the libraries underneath are translated into these where they enter.
"""

from __future__ import annotations

import functools
from typing import Any


class QueueServerError(Exception):
    """Base of every error of this package."""


class Failure(QueueServerError):
    """Raised by a handler to answer its request with a failure.

    ``message`` is the response's ``message``: one line for people. Other keywords become top-level fields of the
    response, for example ``Failure("no such file", rclone_status=3)``.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self.fields), (self.message,)


class SettingsError(QueueServerError):
    """The configuration can't be used. The message names the file, the place in it, and the remedy."""


class BrokerError(QueueServerError):
    """The broker can't be reached or rejected something. The message names it, without its password."""


class BrokerGaveUp(BrokerError):
    """The broker stayed unavailable for more attempts than ``max_connection_retry_errors``, or was closed."""


class MessageTooLarge(BrokerError):
    """The broker doesn't accept messages larger than ``limit_bytes``."""

    def __init__(self, message: str, limit_bytes: int) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.limit_bytes)
