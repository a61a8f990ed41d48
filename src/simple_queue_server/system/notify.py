"""Reports to the service manager that started this process, through the socket named by ``NOTIFY_SOCKET``.

Used by systemd for units with ``Type=notify``, and by ``medusa-copier start`` for the service that it starts. See
sd_notify(3); sending a datagram needs no library.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Self

import structlog

from simple_queue_server.system.trouble import Trouble

log = structlog.stdlib.get_logger("simple_queue_server")


class Notifier:
    """``address`` is a path, or a name starting with ``@`` (Linux's abstract sockets); "" if there is no manager.

    ``watchdog_s`` is after how many seconds of silence the manager kills the service; None: never. No method raises or
    blocks: an unreachable manager costs a line in the log.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._trouble = Trouble(log, "manager_not_notified")

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Configured by the service manager's environment variables."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() and is_meant else None
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s or None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def ready(self) -> None:
        """Report that the service is serving; also at the end of a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being reloaded; :meth:`ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service takes no more requests."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Report what the service is doing, in one line for people."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Reset the watchdog."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except (FileNotFoundError, ConnectionRefusedError):  # it has ended, as `medusa-copier start` does
            log.debug("manager_gone", address=self._address)
        except OSError as error:
            self._trouble.note(message=message.partition("\n")[0], error=str(error))
        else:
            self._trouble.over()
