"""Statements on the table of the files that more than one module needs."""

from __future__ import annotations

from typing import Final

ARRIVED: Final = "outcome IN (1, 2)"
NOTE_SAME: Final = "UPDATE files SET verified = 1, hash = coalesce(nullif(?, ''), hash) WHERE path = ?"
NOTE: Final = """
INSERT INTO files (path, outcome, size, reason) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE
SET outcome = max(outcome, excluded.outcome),
    size = coalesce(excluded.size, size),
    reason = coalesce(reason, excluded.reason)
"""
