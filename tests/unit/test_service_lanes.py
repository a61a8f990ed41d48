"""Which requests share a number of requests at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from medusa_copier.service import pair_of_roots
from simple_queue_server import Request

ROOTS = {"src": {"source_root": "src"}, "far": {}}


@pytest.mark.parametrize(
    ("action", "parameters", "pair"),
    [
        ("copyto", {"source_root": "src", "target_root": "far"}, "src to far"),
        ("copyto", {"source_root": "far", "target_root": "src"}, "far to src"),
        ("copy", {"source_root": "src", "target_root": "far"}, None),
        ("copyto", {"source_root": "src", "target_root": "unknown"}, None),
        ("copyto", {"source_root": ["src"], "target_root": {}}, None),
        ("copyto", {}, None),
        ("copyto", None, None),
    ],
)
def test_files_of_a_pair_of_configured_roots_share_one(action: str, parameters: Any, pair: str | None) -> None:
    found = pair_of_roots(Request(action, parameters), ROOTS)
    assert (str(found) if found else None) == pair
