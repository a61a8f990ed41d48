"""Names that a storage may take for one."""

from __future__ import annotations

import collections
import unicodedata
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.directory import similar_names, spool


@given(names=st.lists(st.text(alphabet="aAbB\u00e9\u00c9e\u0301/", min_size=1, max_size=4), unique=True))
@pytest.mark.parametrize("names_a_pass", [2, 100])
def test_names_that_are_alike_are_found_whatever_the_others_are(names: list[str], names_a_pass: int) -> None:
    batches = [names[start : start + 3] for start in range(0, len(names), 3)]
    with mock.patch.object(spool, "NAMES_A_PASS", names_a_pass):
        found = similar_names.groups(len(names), lambda: batches)

    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

    counted = collections.Counter(map(folded, names))
    assert sorted(map(sorted, found)) == sorted(
        sorted(name for name in names if folded(name) == one) for one, count in counted.items() if count > 1
    )
