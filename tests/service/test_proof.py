"""A seeded slice of the proof: what responses say, compared with what is on the storages' disks. See ``make proof``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from proof.cases import draw
from proof.run import run
from proof.table import table

SEED: Final = 20_261
CASES: Final = 60


@pytest.mark.timeout(240)
async def test_no_success_is_false_and_no_manifest_untrue_whatever_is_damaged(tmp_path: Path) -> None:
    verdict = await run(tmp_path, draw(random.Random(SEED), CASES))
    assert verdict.is_good, "\n".join(["", table(verdict), *verdict.findings])
    assert verdict.cases == CASES
