"""What a root's policy allows, over the whole action: access, overwrite, places, and links that lead out."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.storages import Storage
from medusa_copier.roots.policy import Access, Use
from medusa_copier.roots.symlinks import inspect_below, inspect_path
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success
from tests.support import storage
from tests.support.storage_fixtures import until

Sections = dict[str, Any]


@asynccontextmanager
async def action(world: storage.Places, **roots: Sections) -> AsyncIterator[Handler]:
    """The action copyto with the roots ``src``, ``dst`` and ``bucket`` and what is laid over them."""
    names: dict[str, Sections] = {name: {"rclone_config": name} for name in ("src", "dst", "bucket")}
    sections = {name: RootSection(**names.get(name, {}) | roots.get(name, {})) for name in names | roots}
    async with Rclone(config=world.config, flags={"low_level_retries": 1}, attempts=1) as rclone:
        yield copyto(sections, rclone, Access(sections, rclone))


async def ask(handler: Handler, source: str, target: str, **more: Any) -> Success:
    source_root, _, source_key = source.partition(":")
    target_root, _, target_key = target.partition(":")
    four = {"source_root": source_root, "source_key": source_key, "target_root": target_root, "target_key": target_key}
    answer = await handler(Request("copyto", four | more))
    assert isinstance(answer, Success)
    assert answer.parameters == four | more
    return answer


async def refusal(handler: Handler, source: str, target: str, **more: Any) -> str:
    with pytest.raises(Failure) as raised:
        await ask(handler, source, target, **more)
    assert "rclone_status" not in raised.value.fields, "nothing was tried"
    return raised.value.message


@pytest.fixture(autouse=True)
def outside(world: storage.Places) -> Path:
    """A directory beside the roots, with a file in it; in ``src`` there is one too."""
    (world.src / "a").write_text("content")
    directory = world.directory / "outside"
    (directory / "dir").mkdir(parents=True)
    (directory / "secret").write_text("secret")
    (directory / "dir/secret").write_text("secret")
    return directory


async def test_a_root_for_reading_is_not_copied_to(world: storage.Places) -> None:
    async with action(world, src={"access": "read"}, dst={"access": "write"}) as handler:
        await ask(handler, "src:a", "dst:a")
        assert (
            await refusal(handler, "dst:a", "bucket:a")
            == "the root dst can't be copied from, because it has access: write"
        )
        assert (
            await refusal(handler, "bucket:a", "src:a")
            == "the root src can't be copied to, because it has access: read"
        )


async def test_a_root_with_overwrite_never_lets_no_request_replace_content(world: storage.Places) -> None:
    (world.dst / "a").write_text("mine")
    async with action(world, dst={"overwrite": "never"}) as handler:
        for asked in ("always", "if_different"):
            assert await refusal(handler, "src:a", "dst:a", overwrite=asked) == (
                f"the root dst has overwrite: never, so overwrite: {asked} is not allowed"
            )
        for said in ({}, {"overwrite": "never"}, {"verify": "checksum"}):
            with pytest.raises(Failure, match=r"Copying src:a to dst:a failed: other content is at the target"):
                await ask(handler, "src:a", "dst:a", **said)
        assert (world.dst / "a").read_text() == "mine"
        answer = await ask(handler, "src:a", "dst:new")
        assert answer.fields == {"rclone_status": 0, "verified": {"method": "default"}}
        await ask(handler, "dst:a", "bucket:a", overwrite="always")


async def test_two_requests_for_one_new_target_dont_replace_each_other(world: storage.Places) -> None:
    for number in range(8):
        (world.src / str(number)).write_bytes(os.urandom(300_000))
    async with action(world, dst={"overwrite": "never"}) as handler:
        requests = (ask(handler, f"src:{number}", "dst:one") for number in range(8))
        answers = await asyncio.gather(*requests, return_exceptions=True)
    (won,) = [number for number, answer in enumerate(answers) if isinstance(answer, Success)]
    assert (world.dst / "one").read_bytes() == (world.src / str(won)).read_bytes()


async def test_a_plain_request_is_answered_with_nothing_new(world: storage.Places) -> None:
    async with action(world) as handler:
        assert (await ask(handler, "src:a", "dst:a")).fields == {"rclone_status": 0}


async def test_what_was_compared_is_in_the_response(world: storage.Places) -> None:
    md5 = "9A0364B9E99BB480DD25E1F0284C8555"
    async with action(world) as handler:
        answer = await ask(handler, "src:a", "bucket:a", verify="checksum", expected={"md5": md5})
        assert answer.fields["verified"] == {"method": "expected", "hashes": {"md5": md5.lower()}}
        answer = await ask(handler, "src:a", "bucket:a", verify="default")
        assert answer.fields["verified"] == {"method": "default"}


LINKS = {
    "a file": "file",
    "a directory": "dir/secret",
    "a directory as a whole": "dir",
    "through a link inside": "inner/dir/secret",
    "to nothing there": "gone",
}


def link(directory: Path, outside: Path) -> None:
    (directory / "file").symlink_to(outside / "secret")
    (directory / "dir").symlink_to("../outside/dir")
    (directory / "inner").symlink_to(".")
    (directory / "gone").symlink_to(outside / "new")


@pytest.mark.parametrize("key", LINKS.values(), ids=LINKS.keys())
async def test_links_that_lead_out_of_a_local_root_are_refused(world: storage.Places, outside: Path, key: str) -> None:
    link(world.src, outside)
    link(world.dst, outside)
    before = sorted(outside.rglob("*"))
    async with action(world) as handler:
        for source, target, place in ((f"src:{key}", "bucket:x", f"src:{key}"), ("src:a", f"dst:{key}", f"dst:{key}")):
            root = place.partition(":")[0]
            assert await refusal(handler, source, target) == (
                f"{place} leads out of the root {root} through a symbolic link, and the root has symlinks: refuse"
            )
    assert sorted(outside.rglob("*")) == before
    assert (outside / "secret").read_text() == "secret"


async def test_links_are_followed_if_the_root_permits_it(world: storage.Places, outside: Path) -> None:
    link(world.src, outside)
    async with action(world, src={"symlinks": "follow"}) as handler:
        await ask(handler, "src:dir/secret", "dst:secret")
    assert (world.dst / "secret").read_text() == "secret"


async def test_links_that_stay_in_the_root_are_followed(world: storage.Places) -> None:
    (world.src / "real").mkdir()
    (world.src / "real/b").write_text("content")
    (world.src / "inside").symlink_to(world.src / "real")
    async with action(world) as handler:
        await ask(handler, "src:inside/b", "dst:b")
    assert (world.dst / "b").read_text() == "content"


async def test_a_directory_is_not_copied_through_a_link_below_the_target(world: storage.Places, outside: Path) -> None:
    (world.src / "tree/sub").mkdir(parents=True)
    (world.src / "tree/sub/f").write_text("content")
    (world.dst / "tree").mkdir()
    (world.dst / "tree/sub").symlink_to(outside)
    async with action(world) as handler:
        assert "dst:tree/sub leads out of the root dst" in await refusal(handler, "src:tree", "dst:tree")
        assert not (outside / "f").exists()
        await ask(handler, "src:tree", "dst:other")
        await ask(handler, "src:a", "dst:tree/a")


async def test_a_directory_is_not_copied_through_a_file_link_of_the_kind_that_rclone_follows(
    world: storage.Places, outside: Path
) -> None:
    (world.src / "tree").mkdir()
    (world.dst / "tree").mkdir()
    for name in ("plain", "odd.rclonelink"):
        (world.src / "tree" / name).write_text("content")
        (world.dst / "tree" / name).symlink_to(outside / "secret")
    async with action(world) as handler:
        assert "dst:tree/odd.rclonelink leads out of the root dst" in await refusal(handler, "src:tree", "dst:tree")
        (world.dst / "tree/odd.rclonelink").unlink()
        await ask(handler, "src:tree", "dst:tree")
    assert (outside / "secret").read_text() == "secret"
    assert [path.read_text() for path in (world.dst / "tree").iterdir()] == ["content", "content"]


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a character device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("symlinks", ["refuse", "follow"])
@pytest.mark.parametrize("kind", SPECIAL)
async def test_only_regular_files_are_read_and_written(world: storage.Places, kind: str, symlinks: str) -> None:
    """By a link or by itself, with proof or without: nothing waits for what comes out of a FIFO."""
    for directory in (world.src, world.dst):
        SPECIAL[kind](directory / "special")
        (directory / "link").symlink_to("special")
    async with action(world, src={"symlinks": symlinks}, dst={"symlinks": symlinks}) as handler:
        for name, terms in itertools.product(("special", "link"), ({}, {"verify": "download"}, {"verify": "checksum"})):
            read = await refusal(handler, f"src:{name}", "bucket:x", **terms)
            written = await refusal(handler, "src:a", f"dst:{name}", **terms)
            if kind == "a character device" and symlinks == "refuse":
                assert "leads out of the root" in read + written
            else:
                assert read == f"src:{name} is {kind}; only regular files are copied"
                assert written == f"dst:{name} is {kind}; only regular files are written"
    assert not (world.dst / "special").is_file()


async def test_a_directory_is_not_copied_over_a_special_file(world: storage.Places) -> None:
    for directory in (world.src, world.dst):
        (directory / "tree/sub").mkdir(parents=True)
    (world.src / "tree/sub/f").write_text("content")
    os.mkfifo(world.dst / "tree/sub/f")
    os.mkfifo(world.dst / "tree/other")
    async with action(world) as handler:
        assert await refusal(handler, "src:tree", "dst:tree") == (
            "dst:tree/sub/f is a FIFO, socket or device; only regular files are written"
        )
        assert (world.dst / "tree/sub/f").is_fifo()
        (world.dst / "tree/sub/f").unlink()
        await ask(handler, "src:tree", "dst:tree")
    assert (world.dst / "tree/sub/f").read_text() == "content"
    assert (world.dst / "tree/other").is_fifo()


async def test_devices_are_refused_in_a_root_of_devices(world: storage.Places) -> None:
    async with action(world, devices={"rclone_config": "/dev"}) as handler:
        assert "is a character device" in await refusal(handler, "devices:zero", "dst:x")
        assert "is a character device" in await refusal(handler, "src:a", "devices:null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("symlinks", ["refuse", "follow"])
async def test_what_the_kernel_makes_up_is_not_read(world: storage.Places, symlinks: str) -> None:
    """``/proc/kmsg`` is an empty regular file by what ``stat`` says, and reading it never ends."""
    for key in ("kmsg", "version", "self/fd"):
        async with action(world, proc={"rclone_config": "/proc", "symlinks": symlinks}) as handler:
            assert await refusal(handler, f"proc:{key}", "dst:x") == (
                f"proc:{key} is in a file system that the kernel makes up (proc); only what is stored is copied"
            )


async def test_an_empty_file_in_memory_is_copied(world: storage.Places, in_memory: Path) -> None:
    (in_memory / "empty").touch()
    async with action(world, memory={"rclone_config": str(in_memory)}) as handler:
        await ask(handler, "memory:empty", "dst:empty")
    assert (world.dst / "empty").stat().st_size == 0


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on a tmpfs, which keeps times of any year."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize("year", [1600, 2300])
async def test_a_time_that_rclone_cannot_carry_is_a_failure(world: storage.Places, in_memory: Path, year: int) -> None:
    seconds = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    (in_memory / "a").write_text("content")
    os.utime(in_memory / "a", (seconds, seconds))
    async with action(world, memory={"rclone_config": str(in_memory)}) as handler:
        assert "has a modification time that rclone can't carry" in await refusal(handler, "memory:a", "dst:a")
    assert not (world.dst / "a").exists()


ROOTS = {
    "an alias": "src",
    "an alias of a path in it": "deep",
    "an alias of an alias": "again",
    "a local remote": "plain:{}",
    "a directory": "{}",
    "a directory by a link": "{}/../way",
}


@pytest.mark.parametrize("config", ROOTS.values(), ids=ROOTS.keys())
async def test_a_local_root_is_known_however_it_is_named(world: storage.Places, outside: Path, config: str) -> None:
    (world.directory / "way").symlink_to(world.src)
    world.add(
        storage.section("again", type="alias", remote="src:"),
        storage.section("deep", type="alias", remote="src:deep"),
        storage.section("plain", type="local"),
    )
    inside = world.src / "deep" if config == "deep" else world.src
    inside.mkdir(exist_ok=True)
    (inside / "a").write_text("content")
    (inside / "file").symlink_to(outside / "secret")
    async with action(world, here={"rclone_config": config.format(world.src)}) as handler:
        await ask(handler, "here:a", "dst:a")
        assert "leads out of the root here" in await refusal(handler, "here:file", "dst:x")


async def test_a_directory_is_not_copied_into_itself(world: storage.Places) -> None:
    (world.src / "tree/sub").mkdir(parents=True)
    (world.src / "tree/sub/f").write_text("content")
    (world.src / "way").symlink_to("tree/sub")
    (world.bucket / "tree").mkdir()
    (world.bucket / "tree/f").write_text("content")
    before = sorted(world.src.rglob("*"))
    async with action(world, other={"rclone_config": str(world.src)}) as handler:
        for source, target in (
            ("src:tree", "src:tree/new"),
            ("src:tree", "src:tree/sub/"),
            ("src:tree", "src:way"),
            ("src:tree", "other:tree/sub/new"),
            ("bucket:tree", "bucket:tree/new"),
        ):
            with pytest.raises(Failure) as raised:
                await ask(handler, source, target)
            assert raised.value.message == (
                f"Copying {source} to {target} failed: the target is inside the source directory, so that each copy "
                "would be copied again by the next"
            )
            assert raised.value.fields == {"rclone_status": 1}
        assert sorted(world.src.rglob("*")) == before
        with pytest.raises(Failure, match="the source does not exist"):
            await ask(handler, "src:missing", "src:missing/sub")
        with pytest.raises(Failure, match=r"Copying src:a to src:a/b failed: (?!the target is inside)"):
            await ask(handler, "src:a", "src:a/b")
        for source, target in (("src:tree", "src:tree-2"), ("src:tree/sub", "src:tree"), ("src:tree", "src:tree")):
            await ask(handler, source, target)


async def test_a_root_that_rclone_does_not_know_fails_as_the_copy_does(world: storage.Places) -> None:
    async with action(world, ghost={"rclone_config": "ghost"}) as handler:
        with pytest.raises(Failure, match="Copying ghost:a to dst:a failed: didn't find section") as raised:
            await ask(handler, "ghost:a", "dst:a")
    assert raised.value.fields == {"rclone_status": 1}


def use(root: str) -> Use:
    return Use("read", root, Location("remote:", "a"))


class Elsewhere(Rclone):
    """All of its storages are on other machines."""

    async def storage(self, fs: str) -> Storage:
        return msgspec.json.decode(b'{"Name": "remote", "Root": "", "String": "", "Features": {}}', type=Storage)


def limited(**limits: int | None) -> Access:
    roots = {
        name: RootSection(rclone_config="remote", max_in_flight=limit, symlinks="follow")
        for name, limit in limits.items()
    }
    return Access(roots, Elsewhere())


async def test_no_more_requests_work_on_a_root_than_it_allows_and_other_roots_are_free() -> None:
    access = limited(slow=2, free=None)
    let_go = asyncio.Event()
    at_work: list[int] = []

    async def work(number: int) -> None:
        async with access.granted(use("slow"), use("free"), use("slow")):
            at_work.append(number)
            await let_go.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(5)]

    async def two_at_work() -> bool:
        return len(at_work) == 2

    await until(two_at_work)
    async with access.granted(use("free")):
        assert at_work == [0, 1]
    tasks[2].cancel()
    let_go.set()
    await asyncio.wait(tasks)
    assert (at_work[:2], sorted(at_work[2:])) == ([0, 1], [3, 4])
    async with access.granted(use("slow")):
        pass


def two_whose_set_has_no_order_of_its_own() -> tuple[str, str]:
    """Names that a set gives in the order in which they came, since their hashes collide; hashes differ by run."""
    pairs = itertools.combinations((f"root-{number}" for number in range(100)), 2)
    return next((one, other) for one, other in pairs if list({one, other}) != list({other, one}))


async def test_two_requests_in_opposite_directions_dont_wait_for_each_other() -> None:
    a, b = two_whose_set_has_no_order_of_its_own()
    access = limited(**{a: 1, b: 1}, third=1)

    async def work(*roots: str) -> None:
        async with access.granted(*map(use, roots)):
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(*(work(*roots) for roots in [(a, b), (b, a), (a, a)] * 20))


def leads_out_of(directory: str, path: str) -> bool:
    return inspect_path(directory, path).leads_out


def test_a_root_itself_leads_nowhere_even_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "way").symlink_to("root")
    for name in ("root", "way", "missing"):
        assert not leads_out_of(str(tmp_path / name), "")


def test_a_link_to_a_neighbour_whose_name_begins_alike_leads_out(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root/x").symlink_to("../root-2")
    assert leads_out_of(str(tmp_path / "root"), "x")


@given(st.lists(st.sampled_from(["in", "out", "up", "loop", "file", "dir", "x\0", "\ud800", "n" * 300]), min_size=1))
def test_a_look_at_any_path_is_an_answer(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "links"
    if not root.exists():
        (root / "dir").mkdir(parents=True)
        (root / "file").touch()
        (root / "loop").symlink_to("loop")
        (root / "up").symlink_to("..")
        (root / "out").symlink_to("/")
        (root / "in").symlink_to("dir/..")
    path = "/".join(names)
    if leads_out_of(str(root), path):
        assert {"up", "out"} & set(names)
    if names[0] in {"up", "out"}:
        assert leads_out_of(str(root), names[0])


def test_links_below_a_directory_are_found_and_those_that_stay_are_not(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/stays").symlink_to("../..")
    (tmp_path / "root/a/b/loop").symlink_to("loop")
    assert inspect_below(str(tmp_path / "root"), "a").way_out is None
    assert inspect_below(str(tmp_path / "root"), "missing").way_out is None
    (tmp_path / "root/a/b/leaves").symlink_to("../../..")
    assert inspect_below(str(tmp_path / "root"), "a").way_out == "a/b/leaves"
    assert inspect_below(str(tmp_path / "root"), "").way_out == "a/b/leaves"


async def test_a_request_is_shown_as_waiting_only_while_a_root_has_no_free_slot(world: storage.Places) -> None:
    limited = RootSection(rclone_config="src", max_in_flight=1)
    begun, steps = asyncio.Event(), list[str]()

    @asynccontextmanager
    async def wait() -> AsyncIterator[None]:
        begun.set()
        yield
        steps.append("waited")

    async with Rclone(config=world.config) as rclone:
        access = Access({"h": limited}, rclone)
        use = Use("read", "h", Location("src:", "a"))

        async def second() -> None:
            async with access.granted(use, waiting=wait):
                steps.append("granted")

        async with access.granted(use, waiting=wait):
            assert not begun.is_set()
            task = asyncio.create_task(second())
            await begun.wait()
            assert steps == []
        await task
    assert steps == ["waited", "granted"]


async def test_the_log_has_the_size_of_a_file_that_was_looked_at_and_what_was_copied_of_a_directory(
    world: storage.Places,
) -> None:
    (world.src / "sub").mkdir()
    (world.src / "sub/file").write_bytes(b"12345")
    (world.bucket / "object").write_bytes(b"1234567")

    async def logged(handler: Handler, root: str, key: str, **more: str) -> Any:
        places = {"source_root": root, "source_key": key, "target_root": "dst", "target_key": key}
        request = Request("copyto", places | more)
        await handler(request)
        return request.log_fields.get("bytes")

    with storage.serving("http", world.directory / "web") as web:
        (web.directory / "page").write_bytes(b"123")
        world.add(web.section("web"))
        async with action(world, web={"rclone_config": "web"}) as handler:
            assert await logged(handler, "src", "sub/file") == 5
            (world.dst / "sub/file").unlink()
            assert await logged(handler, "src", "sub") == 5
            assert await logged(handler, "src", "sub") == 0, "it was there already"
            assert await logged(handler, "bucket", "object") == 7
            assert await logged(handler, "bucket", "object", overwrite="never") == 7
            assert await logged(handler, "web", "page") == 3
