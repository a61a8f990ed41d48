"""Charts as SVG, drawn here: they need no script, and can be read in black and white."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

WIDTH: Final = 720
HEIGHT: Final = 170
LEFT: Final = 64
RIGHT: Final = 8
TOP: Final = 10
BOTTOM: Final = 24
MAX_TIMES: Final = 7
"""Times below a chart."""
STEPS: Final = (1, 2, 5, 10)

_AXIS: Final = Markup(
    '<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    '<text class="tick" x="{label}" y="{text_y:.1f}" text-anchor="end">{text}</text>'
)
_TIME: Final = Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>')
_BARS: Final = Markup('<path class="{kind}" d="{path}"/>')
_LINE: Final = Markup('<polyline class="{kind}" points="{points}"/>')
_CHART: Final = Markup(
    '<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    "<title>{label}</title>{axis}{times}{content}</svg>"
)


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time; None where none is known. ``kind`` is the class of its marks in the stylesheet."""

    values: Sequence[float | None]
    kind: str


def bars(
    label: str, times: Sequence[str], stacked: Sequence[Series], show: Callable[[float], str], *, unit: int = 1
) -> Markup:
    """Bars for each time, the series on top of each other. ``show`` writes a value of the axis.

    With ``unit`` 1024 the values of the axis are round in KiB, MiB and so on.
    """
    heights = [sum(series.values[number] or 0 for series in stacked) for number in range(len(times))]
    scale = _Scale(max(heights, default=0), len(times), unit)
    bases = [0.0] * len(times)
    content = Markup()
    for series in stacked:
        paths = [scale.bar(number, bases[number], value) for number, value in enumerate(series.values) if value]
        content += _BARS.format(kind=series.kind, path="".join(paths))
        bases = [base + (value or 0) for base, value in zip(bases, series.values, strict=True)]
    return scale.chart(label, times, content, show)


def lines(label: str, times: Sequence[str], drawn: Sequence[Series], show: Callable[[float], str]) -> Markup:
    """A line for each series, with gaps where nothing is known."""
    known = [value for series in drawn for value in series.values if value is not None]
    scale = _Scale(max(known, default=0), len(times))
    content = Markup().join(line for series in drawn for line in scale.lines(series))
    return scale.chart(label, times, content, show)


def ticks(most: float, unit: int = 1) -> list[float]:
    """Round values from 0 to at least ``most``, four or five of them; round in powers of ``unit``."""
    if most < 1:
        return [0, 1]
    scale = unit ** math.floor(math.log(most, unit)) if unit > 1 else 1
    power = scale * 10 ** math.floor(math.log10(most / scale / 4))
    step = max(1, next(factor * power for factor in STEPS if factor * power >= most / 4 * 0.999))
    return [number * step for number in range(math.ceil(most / step - 0.001) + 1)]


class _Scale:
    """Places on a chart for values from 0 to ``most`` at ``count`` times."""

    def __init__(self, most: float, count: int, unit: int = 1) -> None:
        self._ticks = ticks(most, unit)
        self._step = (WIDTH - LEFT - RIGHT) / max(count, 1)

    def bar(self, number: int, base: float, value: float) -> str:
        """A part of a path: one for all bars of a series keeps a page small."""
        top, bottom = self._y(base + value), self._y(base)
        gap = min(1.0, self._step / 5)
        x, width = LEFT + number * self._step + gap / 2, self._step - gap
        return f"M{x:.1f} {bottom:.1f}h{width:.1f}V{min(top, bottom - 1):.1f}h-{width:.1f}z"

    def lines(self, series: Series) -> list[Markup]:
        runs: list[list[str]] = [[]]
        for number, value in enumerate(series.values):
            if value is None:
                runs.append([])
            else:
                left = LEFT + number * self._step  # a step: a single value is seen too
                y = self._y(value)
                runs[-1] += [f"{left:.1f},{y:.1f}", f"{left + self._step:.1f},{y:.1f}"]
        return [_LINE.format(kind=series.kind, points=" ".join(run)) for run in runs if run]

    def chart(self, label: str, times: Sequence[str], content: Markup, show: Callable[[float], str]) -> Markup:
        axis = Markup().join(self._tick(value, show(value)) for value in self._ticks)
        return _CHART.format(
            width=WIDTH, height=HEIGHT, label=label, axis=axis, times=self._times(times), content=content
        )

    def _tick(self, value: float, text: str) -> Markup:
        y = self._y(value)
        return _AXIS.format(left=LEFT, right=WIDTH - RIGHT, label=LEFT - 6, y=y, text_y=y + 4, text=text)

    def _times(self, times: Sequence[str]) -> Markup:
        every = max(1, math.ceil(len(times) / MAX_TIMES))
        shown = [(number, times[number]) for number in range(0, len(times), every)]
        places = [(LEFT + number * self._step, text) for number, text in shown]
        return Markup().join(
            _TIME.format(x=x, y=HEIGHT - 6, anchor="start" if x < WIDTH - 60 else "end", text=text)
            for x, text in places
        )

    def _y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / self._ticks[-1])
