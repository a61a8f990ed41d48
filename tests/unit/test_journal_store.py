"""The journal: what is in it survives, is adopted by the next service, and is never half written."""

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import structlog

from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.system.locks import Lock


def entry(number: int, response: bytes | None = None) -> Entry:
    return Entry(
        id=f"{number:020d}-x",
        request_id=f"id-{number}",
        body=b'{"action":"a"}\xff\x00',
        reply_to=None,
        correlation_id=f"c-{number}",
        response=response,
    )


def as_it_is(entry: Entry) -> Entry:
    return entry


async def opened(directory: Path, queues: str | None = None) -> Journal:
    journal = Journal(directory, queues)
    await journal.open()
    return journal


async def test_entries_of_a_service_that_ended_are_adopted_oldest_first(tmp_path: Path) -> None:
    first = await opened(tmp_path / "j")
    for number in (3, 1, 2):
        await first.write(entry(number))
    await first.write(entry(2, b"response"))
    await first.remove(entry(3).id)
    await first.close()
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == [entry(1), entry(2, b"response")]
    assert await second.adopt(as_it_is) == []
    await second.close()
    third = await opened(tmp_path / "j")
    assert await third.adopt(as_it_is) == [entry(1), entry(2, b"response")]
    await third.close()


async def test_entries_that_were_adopted_before_the_disk_failed_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await opened(tmp_path / "j")
    await first.write(entry(1))
    await first.write(entry(2))
    await first.close()
    second = await opened(tmp_path / "j")
    rename = Path.rename

    def rename_the_first_only(path: Path, target: Path) -> Path:
        if path.name == f"{entry(2).id}.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_the_first_only)
    assert await second.adopt(as_it_is) == [entry(1)]
    monkeypatch.setattr(Path, "rename", rename)
    assert await second.adopt(as_it_is) == [entry(2)]
    await second.close()


async def test_a_journal_whose_directory_was_removed_is_made_anew(tmp_path: Path) -> None:
    first = await opened(tmp_path / "j")
    shutil.rmtree(tmp_path / "j")
    await first.write(entry(1))
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == []  # it is locked like the one before
    await first.close()
    assert await second.adopt(as_it_is) == [entry(1)]
    await second.close()


async def test_a_journal_without_threads_is_unusable_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await opened(tmp_path / "j")

    async def no_thread(_work: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "to_thread", no_thread)
        with pytest.raises(JournalError, match="can't start new thread"):
            await journal.write(entry(1))
    await journal.write(entry(1))
    await journal.close()


async def test_entries_of_a_living_service_are_left_alone(tmp_path: Path) -> None:
    first = await opened(tmp_path / "j")
    await first.write(entry(1))
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == []
    await first.close()
    assert await second.adopt(as_it_is) == [entry(1)]
    await second.close()


async def test_entries_of_other_queues_are_left_alone_and_said_so_once(tmp_path: Path) -> None:
    owner = await opened(tmp_path / "j", "amqp a queues in, out")
    await owner.write(entry(1))
    await owner.write(entry(2, b"response"))
    await owner.close()
    other = await opened(tmp_path / "j", "amqp b queues in, out")
    with structlog.testing.capture_logs() as logs:
        assert await other.adopt(as_it_is) == []
        assert await other.adopt(as_it_is) == []
    assert [line["event"] for line in logs] == ["journal_entry_skipped"] * 2
    (file,) = (tmp_path / "j").glob(f"*/{entry(1).id}.json")
    assert logs[0]["file"] == str(file)
    assert "amqp a queues in, out" in logs[0]["reason"]
    assert "amqp b queues in, out" in logs[0]["reason"]
    assert "start the service" in logs[0]["remedy"]
    again = await opened(tmp_path / "j", "amqp a queues in, out")
    assert [found.id for found in await again.adopt(as_it_is)] == [entry(1).id, entry(2).id]
    await other.close()
    await again.close()


async def test_entries_of_the_same_queues_are_adopted_from_among_others(tmp_path: Path) -> None:
    first, second = await opened(tmp_path / "j", "a"), await opened(tmp_path / "j", "b")
    await first.write(entry(1))
    await second.write(entry(2))
    await first.close()
    await second.close()
    other = await opened(tmp_path / "j", "b")
    assert [found.id for found in await other.adopt(as_it_is)] == [entry(2).id]
    await other.close()


async def test_what_is_not_served_here_is_left_alone_once(
    tmp_path: Path,
) -> None:
    owner = await opened(tmp_path / "j", "a")
    await owner.write(entry(1))
    await owner.write(entry(2, b"response"))
    await owner.close()
    other = await opened(tmp_path / "j", "a")
    assert await other.adopt(lambda entry: entry.id if entry.response is not None else None) == [entry(2).id]
    assert await other.adopt(as_it_is) == []  # once left alone, for its owner to take
    await other.close()


async def test_an_entry_of_a_version_that_recorded_no_queues_is_adopted(tmp_path: Path) -> None:
    owner = await opened(tmp_path / "j")
    await owner.write(entry(1))
    await owner.close()
    (path,) = (tmp_path / "j").glob("*/*.json")
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "queues"}
    path.write_text(json.dumps(old))
    new = await opened(tmp_path / "j", "a")
    assert await new.adopt(as_it_is) == [entry(1)]
    await new.close()


async def test_an_empty_journal_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j")
    await journal.write(entry(1))
    await journal.remove(entry(1).id)
    await journal.close()
    assert sorted(path.name for path in (tmp_path / "j").iterdir()) == ["dead-letters", "poison"]


@pytest.mark.parametrize("round_number", range(5))
async def test_a_service_killed_while_it_writes_leaves_whole_entries_only(tmp_path: Path, round_number: int) -> None:
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from tests.unit.test_journal_store import entry, opened\n"
        "async def main():\n"
        "    journal = await opened(Path(sys.argv[1]))\n"
        "    for number in range(100_000):\n"
        "        await journal.write(entry(number)); print(number, flush=True)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "j"), str(Path(__file__).parent.parent.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last >= 20 + round_number:
                process.send_signal(signal.SIGKILL)
                break
    journal = await opened(tmp_path / "j")
    adopted = await journal.adopt(as_it_is)
    assert adopted[: last + 1] == [entry(number) for number in range(last + 1)]
    assert len(adopted) <= last + 2 + 50  # what was written but not yet printed
    await journal.close()


async def test_a_damaged_entry_is_moved_to_the_dead_letters_and_does_not_hide_the_others(tmp_path: Path) -> None:
    first = await opened(tmp_path / "j")
    await first.write(entry(1))
    await first.write(entry(2))
    await first.close()
    (damaged,) = (tmp_path / "j").glob("*/*1-x.json")
    damaged.write_bytes(b'{"id":')
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == [entry(2)]
    assert [path.name for path in (tmp_path / "j" / "dead-letters").iterdir()] == [damaged.name]
    await second.close()


async def test_a_full_disk_is_an_error_that_names_the_journal_and_leaves_the_old_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await opened(tmp_path / "j")
    await journal.write(entry(1))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JournalError, match=r"the journal in .*j can't be used: .*No space left"):
            await journal.write(entry(1, b"response"))
    await journal.close()
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == [entry(1)]
    assert not list((tmp_path / "j").glob("*/*.new"))
    await second.close()


async def test_a_journal_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("in the way")
    with pytest.raises(JournalError, match="can't be used"):
        await opened(tmp_path / "j")


async def test_deaths_are_counted_for_each_request_until_they_are_cleared(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j")
    suspect, other = entry(1).fingerprint, entry(2).fingerprint
    assert suspect != other
    await journal.count_deaths(suspect, 2)
    await journal.close()
    again = await opened(tmp_path / "j")
    assert (await again.deaths(suspect), await again.deaths(other)) == (2, 0)
    await again.clear_deaths(suspect)
    assert await again.deaths(suspect) == 0
    await again.close()


async def test_the_journal_is_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        journal = await opened(tmp_path / "run" / "j")
    finally:
        os.umask(former)
    made = [tmp_path / "run" / "j", *(tmp_path / "run" / "j").iterdir()]
    assert [oct(path.stat().st_mode & 0o777) for path in made] == ["0o700"] * 4
    await journal.close()


async def test_closing_twice_and_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j")
    await journal.remove(entry(1).id)  # as after a write that failed
    await journal.clear_deaths(entry(1).fingerprint)
    await journal.close()
    await journal.close()


async def test_a_dead_letter_is_the_whole_entry_with_the_queues_that_it_came_from(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j", "amqp://broker/queue")
    path = await journal.write_dead_letter(entry(1, b"given up"))
    await journal.close()
    assert path == tmp_path / "j" / "dead-letters" / f"{entry(1).id}.json"
    written = msgspec.convert(json.loads(path.read_bytes()), Entry)
    assert written == msgspec.structs.replace(entry(1, b"given up"), queues="amqp://broker/queue")
    assert path.read_bytes().count(b"\n") > 1, "it is for people"


async def test_neither_the_living_nor_a_file_in_the_way_hide_the_dead(tmp_path: Path) -> None:
    dead = await opened(tmp_path / "j")
    await dead.write(entry(1))
    await dead.close()
    (tmp_path / "j" / "0-being-made").mkdir()
    (tmp_path / "j" / "0-living").mkdir()
    (tmp_path / "j" / "0-note.txt").write_text("of an operator")
    living = Lock.take(tmp_path / "j" / "0-living" / "lock", create=True)
    assert living is not None
    second = await opened(tmp_path / "j")
    assert await second.adopt(as_it_is) == [entry(1)]
    assert list((tmp_path / "j" / "0-being-made").iterdir()) == [], "it is left to who makes it"
    living.release()
    await second.close()


async def test_a_directory_that_is_taken_for_a_dead_services_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, refused = Lock.take, list[Path]()

    def remove_the_first(path: Path, *, create: bool) -> Lock | None:
        if not refused:
            refused.append(path)
            path.parent.rmdir()
        return take(path, create=create)

    monkeypatch.setattr(Lock, "take", remove_the_first)
    journal = await opened(tmp_path / "j")
    await journal.write(entry(1))
    assert refused
    await journal.close()


async def test_a_file_that_can_not_be_opened_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await opened(tmp_path / "j")

    def full(path: Path, mode: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(JournalError, match="Too many open files"):
            await journal.write(entry(1))
    await journal.close()


async def test_two_services_never_adopt_the_same_entry(tmp_path: Path) -> None:
    dead = await opened(tmp_path / "j")
    for number in range(50):
        await dead.write(entry(number))
    await dead.close()
    journals = [await opened(tmp_path / "j") for _ in range(4)]
    adopted = await asyncio.gather(*(journal.adopt(as_it_is) for journal in journals))
    assert sorted(e.request_id for found in adopted for e in found) == sorted(f"id-{n}" for n in range(50))
    for journal in journals:
        await journal.close()


async def test_directories_of_earlier_versions_get_their_new_names(tmp_path: Path) -> None:
    directory = tmp_path / "j"
    for name in ("suspects", "set-aside"):
        (directory / name).mkdir(parents=True)
    (directory / "suspects" / "f").write_text("3")
    (directory / "set-aside" / "1.json").write_text("{}")
    journal = await opened(directory)
    assert await journal.deaths("f") == 3
    assert sorted(path.name for path in directory.iterdir() if path != journal._own) == ["dead-letters", "poison"]
    assert (directory / "dead-letters" / "1.json").exists()
    await journal.close()
