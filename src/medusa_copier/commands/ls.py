"""``medusa-copier ls``: lists the contents of a root."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from medusa_copier.commands.output import Column, show
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Item, Location
from medusa_copier.roots.locate import is_empty, locate, shown
from medusa_copier.service import open_rclone
from medusa_copier.settings import CopierSettings
from simple_queue_server import Failure, SettingsError, load_settings, logs, readable

COLUMNS: Final = [
    Column("SIZE", lambda row: "" if row["size_bytes"] is None else readable.size(row["size_bytes"]), is_number=True),
    Column("MODIFIED", lambda row: (row["modified"] or "")[:16].replace("T", " ")),
    Column("NAME", lambda row: row["name"] + "/" * row["is_directory"]),
]
HASH: Final = Column("HASH", lambda row: row["hash"] or "")
ROOTS: Final = [
    Column("ROOT", lambda row: row["root"]),
    Column("ACCESS", lambda row: row["access"]),
    Column("PLACE", lambda row: row["place"]),
]


def list_roots(config: Path, *, as_json: bool) -> None:
    """Print the roots of the configuration."""
    settings = load_settings(config, CopierSettings)
    rows = [{"root": name, "access": root.access, "place": root.fs} for name, root in settings.roots.items()]
    show(rows, ROOTS, as_json=as_json, empty="There are no roots.")


def list_directory(config: Path, place: str, *, hash_kind: str | None, as_json: bool) -> None:
    """Print the contents of the directory ``ROOT:KEY``, by name, or the file if it is one.

    Raises SettingsError for an invalid place, and RcloneError.
    """
    logs.configure_for_command(quiet=True)
    settings = load_settings(config, CopierSettings)
    root, _, key = place.partition(":")
    try:
        location = locate(settings.roots, root, key, "", is_root=is_empty(key))
    except Failure as failure:
        raise SettingsError(failure.message) from None
    items = asyncio.run(_items(settings, location, shown(root, key), hash_kind))
    rows = [_row(item, hash_kind) for item in items]
    columns = COLUMNS if hash_kind is None else [*COLUMNS[:2], HASH, COLUMNS[2]]
    show(rows, columns, as_json=as_json, empty="It is empty.")


async def _items(settings: CopierSettings, location: Location, named: str, hash_kind: str | None) -> list[Item]:
    async with open_rclone(settings, run_directory=None) as rclone:
        kinds = (await rclone.client.storages.of(location.fs)).hashes if hash_kind else []
        if hash_kind is not None and hash_kind not in kinds:
            raise SettingsError(
                f"{named} is on a storage without {hash_kind}; it has: {', '.join(kinds) or 'no hashes'}"
            )
        try:
            return await _look(rclone, location, hash_kind)
        except NotFound:
            raise SettingsError(f"there is nothing at {named}") from None
        except RcloneError as error:
            raise SettingsError(f"{named} can't be listed: {error.reason}") from None


async def _look(rclone: Rclone, location: Location, hash_kind: str | None) -> list[Item]:
    hash_types = [hash_kind] if hash_kind else []
    try:
        return await rclone.client.list_directory(location, hash_types=hash_types)
    except (NotFound, WrongKind):
        item = await rclone.client.stat(location, files_only=True, hash_types=hash_types) if location.path else None
        if item is None:
            raise
        return [item]


def _row(item: Item, hash_kind: str | None) -> dict[str, Any]:
    row = {
        "name": item.name,
        "is_directory": item.is_dir,
        "size_bytes": None if item.is_dir or item.size < 0 else item.size,
        "modified": item.mod_time or None,
    }
    return row if hash_kind is None else row | {"hash": item.hashes.get(hash_kind)}
