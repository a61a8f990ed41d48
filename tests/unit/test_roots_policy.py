"""The access policy of the roots, with real directories and no rclone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from medusa_copier.contract.parameters import Overwrite
from medusa_copier.rclone.configuration import Configuration
from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.facade import ConfigurationState, Rclone
from medusa_copier.rclone.location import Item, Location
from medusa_copier.rclone.rcd.storages import Storage
from medusa_copier.roots.policy import Access, RootSlots, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Failure
from simple_queue_server.slots import Waiting

REFUSED = "leads out of the root here through a symbolic link, and the root has symlinks: refuse"


class Remotes:
    """The part of rclone's configuration that the policy asks for."""

    def __init__(self) -> None:
        self.generation = 0
        self.refused: dict[str, str] = {}

    def refusal(self, fs: str) -> str | None:
        return self.refused.get(fs)


class Storages(Rclone):
    """Storages by the name of their remote: a directory of this machine, or None for what is elsewhere."""

    def __init__(self, directories: Mapping[str, Path | None]) -> None:
        super().__init__()
        self.directories = dict(directories)
        self.remotes = Remotes()
        self.configuration = cast("Configuration", self.remotes)
        self.state = cast("ConfigurationState", object())
        self.files: set[Location] = set()

    async def storage(self, fs: str) -> Storage:
        directory = self.directories[fs]
        features = {"IsLocal": directory is not None}
        answer = {"Name": "remote", "Root": str(directory or "bucket"), "String": "", "Features": features}
        return msgspec.convert(answer, Storage)

    async def follow_configuration(self) -> ConfigurationState:
        return self.state

    async def stat(self, location: Location, *, files_only: bool = False) -> Item | None:
        is_there = location in self.files and files_only
        return Item(location.path, location.path, 1, "", is_dir=False) if is_there else None


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here/sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    (tmp_path / "here/file").write_text("12345")
    (tmp_path / "here/way-out").symlink_to(tmp_path / "outside")
    (tmp_path / "here/link").symlink_to("file")
    return tmp_path / "here"


@pytest.fixture
def rclone(here: Path) -> Storages:
    return Storages({"here:": here, "elsewhere:": None})


def access_to(rclone: Storages, slots: RootSlots | None = None, **options: Any) -> Access:
    roots = {name: RootSection(name, **options) for name in ("here", "elsewhere")}
    return Access(roots, rclone, slots)


def read(path: str, root: str = "here") -> Use:
    return Use("read", root, Location(f"{root}:", path))


def write(path: str, root: str = "here") -> Use:
    return Use("write", root, Location(f"{root}:", path))


async def refusal(access: Access, *uses: Use) -> str:
    with pytest.raises(Failure) as raised:
        async with access.granted(*uses):
            pytest.fail("access was granted")
    for use in uses[:-1]:
        await access.require(use)
    with pytest.raises(Failure) as required:
        await access.require(uses[-1])
    assert required.value.message == raised.value.message, "both ways refuse the same"
    return raised.value.message


@pytest.mark.parametrize(
    ("allowed", "may_read", "may_write"), [("read", True, False), ("write", False, True), ("read-write", True, True)]
)
async def test_a_root_is_used_for_what_its_access_says(
    rclone: Storages, allowed: str, may_read: bool, may_write: bool
) -> None:
    access = access_to(rclone, access=allowed)
    for use, may, verb in ((read("file"), may_read, "copied from"), (write("file"), may_write, "copied to")):
        if may:
            async with access.granted(use):
                await access.require(use)
        else:
            reason = f"the root here can't be {verb}, because it has access: {allowed}"
            assert await refusal(access, use) == reason
            assert await refusal(access, read("x", "elsewhere") if may_read else write("x", "elsewhere"), use) == reason


@pytest.mark.parametrize(
    ("of_root", "asked", "explicit", "applied"),
    [
        (None, "always", True, "always"),
        (None, "if_different", False, "if_different"),
        (None, "never", True, "never"),
        ("never", "never", True, "never"),
        ("never", "if_different", False, "never"),
        ("never", "if_different", True, None),
        ("never", "always", True, None),
        ("never", "always", False, "never"),
    ],
)
def test_a_root_with_overwrite_never_is_never_overwritten(
    rclone: Storages, of_root: str | None, asked: Overwrite, explicit: bool, applied: str | None
) -> None:
    access = access_to(rclone, overwrite=of_root) if of_root else access_to(rclone)
    if applied is None:
        with pytest.raises(Failure, match=f"the root here has overwrite: never, so overwrite: {asked} is not allowed"):
            access.overwrite("here", asked, explicit=explicit)
    else:
        assert access.overwrite("here", asked, explicit=explicit) == applied


async def test_the_size_of_a_file_to_be_read_is_known(rclone: Storages) -> None:
    access = access_to(rclone)
    for uses, size_bytes in (
        ([read("file")], 5),
        ([read("link")], 5),
        ([write("file")], None),
        ([read("sub")], None),
        ([read("missing")], None),
        ([read("file", "elsewhere")], None),
        ([read("file"), write("sub/new")], 5),
        ([write("x", "elsewhere"), read("file")], 5),
    ):
        async with access.granted(*uses) as grant:
            assert (grant.size_bytes, grant.configuration) == (size_bytes, rclone.state)


async def test_no_link_leads_out_of_a_root_but_where_links_are_followed(rclone: Storages) -> None:
    for use in (read("way-out"), read("way-out/file"), write("way-out/new")):
        assert await refusal(access_to(rclone), use) == f"here:{use.location.path} {REFUSED}"
        assert await refusal(access_to(rclone), read("file"), use) == f"here:{use.location.path} {REFUSED}"
        async with access_to(rclone, symlinks="follow").granted(use):
            pass


@pytest.mark.parametrize("symlinks", ["refuse", "follow"])
async def test_what_is_no_regular_file_is_neither_read_nor_written(rclone: Storages, here: Path, symlinks: str) -> None:
    os.mkfifo(here / "fifo")
    (here / "by-link").symlink_to("fifo")
    access = access_to(rclone, symlinks=symlinks)
    for name in ("fifo", "by-link"):
        assert await refusal(access, read(name)) == f"here:{name} is a FIFO; only regular files are copied"
        assert await refusal(access, write(name)) == f"here:{name} is a FIFO; only regular files are written"


async def test_below_a_target_directory_links_out_and_special_files_are_refused(rclone: Storages, here: Path) -> None:
    access, source = access_to(rclone), Location("elsewhere:", "from")
    (here / "sub/deep").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(here / "sub/deep/socket"))
    await access.refuse_links_below(write("sub"), source)
    rclone.files = {Location("elsewhere:", "from/deep/socket")}
    special = "here:sub/deep/socket is a FIFO, socket or device; only regular files are written"
    with pytest.raises(Failure, match=special):
        await access.refuse_links_below(write("sub"), source)
    with pytest.raises(Failure, match=special):
        await access.refuse_links_below(write("sub/deep"), Location("elsewhere:", "from/deep"))
    rclone.files = {Location("elsewhere:", "sub/deep/socket")}
    (here / "way-out").rename(here / "sub/way-out")
    with pytest.raises(Failure, match=f"here:sub/way-out {REFUSED}"):
        await access.refuse_links_below(write("sub"), source)
    (here / "sub/way-out").unlink()
    with pytest.raises(Failure, match=special):
        await access.refuse_links_below(write(""), Location("elsewhere:", ""))
    await access_to(rclone, symlinks="follow").refuse_links_below(write("sub"), Location("elsewhere:", "sub"))
    await access.refuse_links_below(write("sub", "elsewhere"), source)


async def test_what_is_known_of_a_root_is_forgotten_when_rclones_configuration_changes(
    rclone: Storages, here: Path, tmp_path: Path
) -> None:
    access = access_to(rclone)
    async with access.granted(read("file")) as grant:
        assert grant.size_bytes == 5
    rclone.directories["here:"] = tmp_path / "outside"
    async with access.granted(read("file")) as grant:
        assert grant.size_bytes == 5, "it is asked once"
    rclone.remotes.generation += 1
    async with access.granted(read("file")) as grant:
        assert grant.size_bytes == len("secret")


async def test_a_root_that_rclones_configuration_makes_unusable_is_refused_until_it_changes(rclone: Storages) -> None:
    access = access_to(rclone)
    rclone.remotes.refused["here:"] = "the remote here has override.ignore_size"
    rclone.remotes.generation += 1
    for use in (read("file"), write("file")):
        with pytest.raises(RcloneUnusable, match="the remote here has override"):
            async with access.granted(read("x", "elsewhere"), use):
                pytest.fail("access was granted")
        with pytest.raises(RcloneUnusable):
            await access.require(use)
    async with access.granted(read("x", "elsewhere")):
        pass
    rclone.remotes.refused.clear()
    with pytest.raises(RcloneUnusable):
        await access.require(read("file"))
    rclone.remotes.generation += 1
    await access.require(read("file"))


def test_slots_outlive_a_reload_unless_their_limit_changes() -> None:
    slots = RootSlots()
    roots = {"a": RootSection("a", max_in_flight=2), "b": RootSection("b", max_in_flight=3), "c": RootSection("c")}
    before = slots.of(roots)
    assert sorted(before) == ["a", "b"]
    assert slots.of(roots) == before
    after = slots.of(roots | {"a": RootSection("a", max_in_flight=1)})
    assert after["b"] is before["b"]
    assert after["a"] is not before["a"]
    assert slots.of({"c": RootSection("c")}) == {}
    assert slots.of({"b": RootSection("b", max_in_flight=3)}) == {"b": before["b"]}


async def test_a_root_with_a_limit_is_free_again_after_each_request(rclone: Storages) -> None:
    slots = RootSlots()
    access = access_to(rclone, slots, max_in_flight=1)
    steps: list[str] = []

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        steps.append("begins to wait")
        yield
        steps.append("has waited")

    async with access.granted(read("file"), write("x", "elsewhere"), waiting=waiting):
        assert steps == []
        assert all(limit.locked() for limit in access._free.values())
        async with rclone._wait():
            assert steps == ["begins to wait"]
            assert not any(limit.locked() for limit in access._free.values())
            async with access_to(rclone, slots, max_in_flight=1).granted(read("file")):
                pass
        assert steps == ["begins to wait", "has waited"]
        assert all(limit.locked() for limit in access._free.values())
        steps.clear()
        second = asyncio.create_task(use(access, read("file"), waiting))
        await asyncio.sleep(0)
        assert steps == ["begins to wait"]
    await second
    assert steps == ["begins to wait", "has waited"]
    for failing in (read("way-out"), read("file")):
        with pytest.raises((Failure, ZeroDivisionError)):
            async with access.granted(failing):
                raise ZeroDivisionError
    assert not any(limit.locked() for limit in access._free.values())


async def use(access: Access, use: Use, waiting: Waiting) -> None:
    async with access.granted(use, waiting=waiting):
        pass


async def test_a_root_without_a_limit_lets_a_request_wait_as_it_does(rclone: Storages) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        steps.append("waits")
        yield

    async with access_to(rclone).granted(read("file"), waiting=waiting), rclone._wait():
        assert steps == ["waits"]
