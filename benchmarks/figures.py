"""Medians, percentiles, and ratios whose two sides come from the same round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the lowest and highest of the values that it is of."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError when there are no values."""
        if not values:
            raise ValueError("no values to take a median of")
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(self.low)}–{figure(self.high)})"


def ratios(values: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Each value over the one beside it of the same round. Raises ValueError when there aren't as many."""
    return [value / other for value, other in zip(values, beside, strict=True)]


def differences(values: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Each value minus the one beside it of the same round. Raises ValueError when there aren't as many."""
    return [value - other for value, other in zip(values, beside, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all are not above (nearest rank)."""
    if not values:
        raise ValueError("no values to take a percentile of")
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def figure(value: float) -> str:
    """Three significant digits, no exponent, thousands apart: ``0.987``, ``12.3``, ``4,560``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{digits}f}"
