"""The manifest of a directory copy: its lines, which hashes it lists, and when it isn't written; with no rclone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest

from medusa_copier.contract.response_types import Verified
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.manifest import Format, ManifestTarget, ManifestWriter, lines
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Row
from medusa_copier.rclone.errors import MachineTrouble, NotFound, RcloneError
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.commands import Outcome
from medusa_copier.rclone.terms import Terms
from tests.support.memory_client import MemoryRclone

SOURCE, TARGET, PLACE = Location("src:", "d"), Location("dst:", "d"), Location("lists:", "m/manifest")
ODD: Final = "caf\udce9 %\n\r"


def digest(kind: str, content: str) -> str:
    return hashlib.new(kind, content.encode(errors="surrogateescape")).hexdigest()


class OfDirectories(MemoryRclone):
    """An rclone whose commands list and hash ``at_target``: contents by path."""

    def __init__(self, run_directory: Path, hashes: list[str], hashes_of_lists: list[str]) -> None:
        here: dict[str, Any] = {"hashes": ["md5", "sha256"]}
        storages = {"src:": here, "dst:": {"hashes": hashes}, "lists:": {"hashes": hashes_of_lists}}
        super().__init__(run_directory, {**storages, str(run_directory): here})
        self.hashes = hashes
        self.at_target: dict[str, str] = {}
        self.without_hash: set[str] = set()
        self.commands_run: list[tuple[str, ...]] = []
        self.written: list[tuple[str, Terms, bool]] = []
        self.failure: RcloneError | None = None

    async def run(self, *call: str, lines: Callable[[list[str]], object]) -> Outcome:
        command, *arguments = call
        self.commands_run.append((command, *(each for each in arguments if not each.startswith("--files-from"))))
        (listed,) = [each.partition("=")[2] for each in arguments if each.startswith("--files-from")]
        paths = Path(listed).read_text(errors="surrogateescape").split("\n")[:-1]
        found = {path: self.at_target[path] for path in paths if path in self.at_target}
        if command == "lsf":
            lines([f"{len(content)};{path}" for path, content in found.items()])
        else:
            is_read = "--download" in arguments
            known = {path: content for path, content in found.items() if is_read or path not in self.without_hash}
            lines([f"{digest(arguments[0], content)}  {path}" for path, content in known.items()])
        return self.outcome

    async def copyto(self, source: Location, target: Location, **options: Any) -> Verified:
        assert target == PLACE
        if self.failure is not None:
            raise self.failure
        text = Path(source.fs, source.path).read_bytes().decode(errors="surrogateescape")
        self.written.append((text, options["terms"], options["again"]))
        return Verified("default")


class World:
    """A copy of files with these contents, which have arrived."""

    def __init__(self, directory: Path, ledger: Ledger, hashes: list[str], hashes_of_lists: list[str]) -> None:
        self.rclone = OfDirectories(directory, hashes, hashes_of_lists)
        self.rclone.at_target = {"a": "one", "b": "two"}
        self.ledger = ledger
        self.job = Job(self.rclone, SOURCE, TARGET, Selection(), ledger)
        ledger.note_listed(["= a", "+ b"])
        ledger.note_copied(["3"], ["b"])

    async def write(self, layout: Format = "jsonl", *, again: bool = False, place: Location = PLACE) -> str | None:
        """What is written; None if nothing is."""
        target = ManifestTarget(location=place, shown="lists:m", format=layout, overwrite="always")
        await ManifestWriter(self.job, target).write(again=again)
        return self.rclone.written[-1][0] if self.rclone.written else None

    @property
    def hashed(self) -> list[tuple[str, ...]]:
        return [run for run in self.rclone.commands_run if run[0] == "hashsum"]


Worlds = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Worlds]:
    with Ledger(None) as ledger:

        def make(hashes: list[str], hashes_of_lists: list[str] | None = None) -> World:
            return World(tmp_path, ledger, hashes, hashes if hashes_of_lists is None else hashes_of_lists)

        yield make


def bag(kind: str, files: dict[str, str]) -> str:
    return "".join(f"{digest(kind, content)}  data/{path}\n" for path, content in files.items())


async def test_a_list_has_sizes_hashes_and_outcomes(world: Worlds) -> None:
    text = await world(["md5"]).write()
    assert text is not None
    assert [json.loads(line) for line in text.splitlines()] == [
        {"path": "a", "size": 3, "hash": {"md5": digest("md5", "one")}, "outcome": "unchanged"},
        {"path": "b", "size": 3, "hash": {"md5": digest("md5", "two")}, "outcome": "copied"},
    ]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
async def test_a_bag_has_the_hash_of_its_name(world: Worlds, kind: str) -> None:
    of_storage = world(["md5"])
    text = await of_storage.write(cast("Format", f"bagit-{kind}"))
    assert text == bag(kind, {"a": "one", "b": "two"})
    assert of_storage.hashed == [("hashsum", kind, "dst:d", *(["--download"] if kind == "sha256" else []))]


@pytest.mark.parametrize(
    ("hashes", "kind"), [(["crc32", "md5"], "md5"), (["sha256", "crc32", "sha1"], "crc32"), ([], "md5")]
)
async def test_a_list_has_md5_or_a_hash_that_the_storage_has(world: Worlds, hashes: list[str], kind: str) -> None:
    of_storage = world(hashes)
    of_storage.rclone.run = no_hashes(of_storage.rclone)  # type: ignore[method-assign]
    with pytest.raises(RcloneError, match=f"no {kind} could be computed for 2 files at the target"):
        await of_storage.write()
    kept = [("hashsum", kind, "dst:d")] if hashes else []
    assert of_storage.hashed == [*kept, ("hashsum", kind, "dst:d", "--download")]
    assert of_storage.rclone.written == []


def no_hashes(rclone: OfDirectories) -> Any:
    run = rclone.run

    async def without(command: str, *arguments: str, lines: Callable[[list[str]], None]) -> Outcome:
        if command == "hashsum":
            rclone.commands_run.append((command, *(each for each in arguments if "files-from" not in each)))
            return Outcome(0)
        return await run(command, *arguments, lines=lines)

    return without


async def test_what_has_no_hash_at_its_storage_is_read(world: Worlds) -> None:
    of_storage = world(["md5"])
    of_storage.rclone.without_hash = {"b"}
    assert await of_storage.write("bagit-md5") == bag("md5", {"a": "one", "b": "two"})
    assert of_storage.hashed == [("hashsum", "md5", "dst:d"), ("hashsum", "md5", "dst:d", "--download")]


async def test_hashes_of_the_verification_are_used_if_they_are_of_the_type(world: Worlds) -> None:
    of_storage = world(["md5"])
    of_storage.ledger.note_same(["a", "b"], ["aa", "bb"])
    of_storage.ledger.hash_kind = "md5"
    assert await of_storage.write("bagit-md5") == "aa  data/a\nbb  data/b\n"
    assert of_storage.hashed == []
    text = await of_storage.write("jsonl")
    assert text is not None
    assert json.loads(text.splitlines()[0])["hash"] == {"md5": "aa"}
    assert await of_storage.write("bagit-sha256") == bag("sha256", {"a": "one", "b": "two"})


async def test_a_bag_is_not_written_if_a_file_is_missing_and_a_list_is(world: Worlds) -> None:
    of_storage = world(["md5"])
    of_storage.ledger.table.note([Note("c", FileOutcome.FAILED, reason="it broke")])
    assert await of_storage.write("bagit-md5") is None
    assert of_storage.rclone.commands_run == []
    text = await of_storage.write()
    assert text is not None
    assert json.loads(text.splitlines()[2]) == {
        "path": "c", "size": None, "hash": None, "outcome": "failed", "reason": "it broke"
    }  # fmt: skip


@pytest.mark.parametrize(("there", "reason"), [("", "it is not at the target any more"), ("longer", "has 6 bytes")])
async def test_a_file_that_is_not_there_as_it_was_copied_fails_and_its_bag_is_not_written(
    world: Worlds, there: str, reason: str
) -> None:
    of_storage = world(["md5"])
    of_storage.rclone.at_target = {"a": "one"} | ({"b": there} if there else {})
    assert await of_storage.write("bagit-md5") is None
    ((path, why),) = [(row.path, row.reason) for row in of_storage.ledger.first_failed(10)]
    assert path == "b"
    assert reason in str(why)
    assert await of_storage.write() is not None


@pytest.mark.parametrize("place", [Location("dst:", "d/a"), Location("src:", "d/b")])
async def test_a_manifest_takes_the_place_of_no_file(world: Worlds, place: Location) -> None:
    of_storage = world(["md5"])
    with pytest.raises(RcloneError, match="the manifest lists:m would take the place of one of the files"):
        await of_storage.write(place=place)
    assert of_storage.rclone.written == []


@pytest.mark.parametrize(("hashes", "verify"), [(["md5"], "default"), ([], "download")])
@pytest.mark.parametrize("again", [False, True])
async def test_a_manifest_is_read_back_if_no_hash_shows_that_it_arrived(
    world: Worlds, hashes: list[str], verify: str, again: bool
) -> None:
    of_storage = world(["md5"], hashes)
    await of_storage.write(again=again)
    ((_, terms, was_again),) = of_storage.rclone.written
    assert (terms.overwrite, terms.verify, was_again) == ("always", verify, again)


async def test_a_manifest_that_can_not_be_written_is_a_failure_that_names_it(world: Worlds) -> None:
    of_storage = world(["md5"])
    of_storage.rclone.failure = NotFound("bucket not found")
    with pytest.raises(RcloneError, match="the manifest lists:m could not be written: bucket not found") as raised:
        await of_storage.write()
    assert (type(raised.value), raised.value.exit_status) == (RcloneError, 3)
    of_storage.rclone.failure = MachineTrouble("the disk is full")
    with pytest.raises(MachineTrouble, match=r"^the disk is full$"):
        await of_storage.write()


@pytest.mark.parametrize("outcome", [Outcome(-9), Outcome(1, complaint="directory not found")])
async def test_hashes_that_a_command_did_not_compute_are_a_failure(world: Worlds, outcome: Outcome) -> None:
    of_storage = world(["md5"])
    of_storage.rclone.outcome = outcome
    with pytest.raises(RcloneError):
        await of_storage.write()
    assert of_storage.rclone.written == []


def test_names_are_listed_as_they_are() -> None:
    row = Row(ODD, FileOutcome.COPIED, 3, None, "ab")
    (line,) = lines([row], "bagit-md5", "md5")
    assert line == b"ab  data/caf\xe9 %25%0A%0D\n"
    (line,) = lines([row], "jsonl", "md5")
    listed = msgspec.json.decode(line)
    assert listed["path"] == "caf\\xe9 %\n\r"
    assert listed["path_base64"] == "Y2Fm6SAlCg0="
    (line,) = lines([row._replace(path="ü")], "jsonl", "md5")
    assert line == '{"path":"ü","size":3,"hash":{"md5":"ab"},"outcome":"copied"}\n'.encode()
