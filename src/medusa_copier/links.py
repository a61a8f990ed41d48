"""Symbolic links in a directory of this machine: do they lead out of it?"""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import Executor


class Lookout:
    """Tells where paths below a ``directory`` lead.

    It looks in one of the ``threads`` at a time, because a mount may hang, and looks at all that was asked meanwhile
    at once, because a thread for each path would take half as long as a small copy.
    """

    def __init__(self, directory: str, threads: Executor) -> None:
        self.directory = directory
        self._threads = threads
        self._asked: list[tuple[str, asyncio.Future[bool]]] = []
        self._looking: asyncio.Task[None] | None = None

    def leads_out(self, path: str) -> asyncio.Future[bool]:
        """Whether ``path`` leads out of the directory."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append((path, answer))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return answer

    async def first_way_out_below(self, path: str) -> str | None:
        """The first link to a directory below ``path`` that leads out of the directory. Lists all that is there."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, first_way_out_below, self.directory, path)

    async def _look(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            paths = [path for path, _ in asked]
            ways = await asyncio.get_running_loop().run_in_executor(self._threads, self._lead_out, paths)
            for (_, answer), leads_out in zip(asked, ways, strict=True):
                if not answer.done():  # its request was cancelled
                    answer.set_result(leads_out)

    def _lead_out(self, paths: list[str]) -> list[bool]:
        return [leads_out(self.directory, path) for path in paths]


def leads_out(directory: str, path: str) -> bool:
    """Whether ``path`` below the ``directory`` is somewhere else, by a symbolic link in it or at its end.

    What isn't there, and what can't be looked at, leads nowhere.
    """
    here = directory.rstrip("/")
    try:
        for segment in path.split("/"):
            here = f"{here}/{segment}"
            if stat.S_ISLNK(os.lstat(here).st_mode):
                return not _is_within(os.path.realpath(directory), os.path.realpath(f"{directory}/{path}"))
    except (OSError, ValueError):  # ValueError: no name of a file
        return False
    return False


def first_way_out_below(directory: str, path: str) -> str | None:
    """The first link to a directory below ``path`` that leads out of the ``directory``, as a path below that."""
    top = os.path.realpath(directory)
    start = f"{top}/{path}".rstrip("/")
    for here, names, _ in os.walk(start):
        for name in names:
            place = f"{here}/{name}"
            if os.path.islink(place) and not _is_within(top, os.path.realpath(place)):  # noqa: PTH114
                return place[len(top) :].lstrip("/")
    return None


def _is_within(directory: str, place: str) -> bool:
    return place == directory or place.startswith(directory.rstrip("/") + "/")
