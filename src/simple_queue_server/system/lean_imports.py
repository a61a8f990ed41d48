"""What the programs import first, so that they start sooner."""

from __future__ import annotations

import sys


def import_structlog() -> None:
    """Import structlog without rich, which it would import for tracebacks of its own kind: ours are plain.

    That is a quarter of the start of a short command. For programs only: whoever uses this package as a library may
    want those tracebacks.
    """
    if {"rich", "structlog"} & sys.modules.keys():
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # the import system takes it as not installed
    try:
        import structlog  # noqa: F401, PLC0415
    finally:
        del sys.modules["rich"]
