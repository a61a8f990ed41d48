"""Data → the figures of docs/benchmarks.md, as SVG. The same data makes the same files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.targets import Data

COLORS: Final = {"ours": "#1f77b4", "ours too": "#17a2a2", "bare": "#e07b00", "command": "#c0392b", "cp": "#7f8c8d"}
INK: Final = "#6e7781"
"""Legible on GitHub's white and on its black."""
STYLE: Final[Mapping[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medusa-copier",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def draw(data: Data, directory: Path) -> None:
    """Write a file for each figure whose data is there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (subject, plot) in PLOTS.items():
        found = data.get(subject)
        if found and "error" not in found:
            with mpl.rc_context(dict(STYLE)):
                figure = Figure(figsize=(7.2, 3.8), layout="constrained")
                plot(figure.add_subplot(), found)
                figure.savefig(directory / f"{name}.svg", transparent=True, metadata={"Date": None})


def _in_flight(axes: Any, found: Any) -> None:
    curves = found["in_flight"]
    _line(axes, curves["rc"], "bare rc calls, no queue", COLORS["bare"])
    _line(axes, curves["service"], "the service, RabbitMQ", COLORS["ours"])
    axes.set_xscale("log", base=2)
    axes.set_xticks([x for x, _ in curves["service"]], labels=[f"{x:g}" for x, _ in curves["service"]])
    axes.set(xlabel="in flight", ylabel="requests a second (4 KiB each)", ylim=(0, None))
    axes.legend()


def _sizes(axes: Any, found: Any) -> None:
    curves = found["size"]
    _line(axes, curves["process"], "rclone copyto, a process each", COLORS["command"])
    _line(axes, curves["service"], "the service, RabbitMQ, 16 at a time", COLORS["ours"])
    _line(axes, curves["cp"], "cp, a process each", COLORS["cp"])
    axes.set(xscale="log", yscale="log", xlabel="size of a file", ylabel="seconds a file")
    axes.set_xticks([x for x, _ in curves["service"]], labels=[_size(x) for x, _ in curves["service"]])
    axes.minorticks_off()
    axes.legend()


def _latency(axes: Any, found: Any) -> None:
    names = {"rc": ("bare rc call", "bare"), "embedded": ("embedded queue", "ours too"), "amqp": ("RabbitMQ", "ours")}
    for key, (label, color) in names.items():
        values = sorted(value for latencies in found["rounds"][key] for value in latencies)
        axes.step(*_thinned(values), where="post", label=label, color=COLORS[color])
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axes.set(xscale="log", xlabel="ms from publication to response", ylabel="part of the requests", ylim=(0, 1.02))
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower right")


def _memory(axes: Any, found: Any) -> None:
    for key, label, color in (("rclone", "its rclone", "bare"), ("service", "service", "ours")):
        points = [[at / 60, pss_bytes / 2**20] for _, at, pss_bytes in found["memory"][key]]
        _line(axes, points, label, COLORS[color], marker="")
    axes.set(xlabel="minutes", ylabel="MiB (PSS)", ylim=(0, None))
    axes.legend()


def _distance(axes: Any, found: Any) -> None:
    rates = {name: sorted(values)[len(values) // 2] for name, values in found["series"].items()}
    for way, marker in (("up", "o"), ("down", "s")):
        for name, label, color in (
            ("copy", "the action copy", COLORS["ours"]),
            ("rclone 64", "rclone copy, 64 transfers", COLORS["bare"]),
            ("rclone 256", "rclone copy, 256 transfers", COLORS["command"]),
        ):
            points = [[ms, rates[f"{name} {way} {ms}"]] for ms in found["round_trips_ms"]]
            _line(axes, points, f"{label}, {way}", color, marker)
    axes.set_xscale("log")
    axes.set_xticks(found["round_trips_ms"], labels=[f"{ms} ms" for ms in found["round_trips_ms"]])
    axes.set(xlabel="round trip", ylabel="files a second (4 KiB each)", ylim=(0, None))
    axes.legend()


def _scaling(axes: Any, found: Any) -> None:
    points = [[int(copiers), sorted(rates)[len(rates) // 2]] for copiers, rates in found["series"].items()]
    one = points[0][1]
    _line(axes, points, "measured", COLORS["ours"])
    _line(axes, [[copiers, copiers * one] for copiers, _ in points], "linear", COLORS["cp"], marker="")
    axes.set_xticks([copiers for copiers, _ in points])
    axes.set(xlabel="copiers", ylabel="files a second", ylim=(0, None))
    axes.legend()


PLOTS: Final[dict[str, tuple[str, Callable[[Any, Any], None]]]] = {
    "in-flight": ("sizes", _in_flight),
    "sizes": ("sizes", _sizes),
    "latency": ("latency", _latency),
    "distance": ("distance", _distance),
    "scaling": ("scaling", _scaling),
    "memory": ("endurance", _memory),
}


def _line(axes: Any, points: list[list[float]], label: str, color: str, marker: str = "o") -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, markersize=4, label=label, color=color)


def _thinned(values: list[float], most: int = 300) -> tuple[list[float], list[float]]:
    """The distribution function in ``most`` steps, the largest value among them."""
    step = max(1, len(values) // most)
    ranks = [*range(step, len(values), step), len(values)]
    return [values[rank - 1] for rank in ranks], [rank / len(values) for rank in ranks]


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:g} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:g} KiB"
