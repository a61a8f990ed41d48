"""Operations on roots: list them and their contents."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medusa_copier.http.listing import Listings
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Item, Location
from medusa_copier.roots.current import CurrentRoots
from medusa_copier.roots.locate import is_empty, locate
from medusa_copier.roots.policy import Use
from simple_queue_server import Failure
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.secrets import masked


class Root(msgspec.Struct, kw_only=True):
    """A configured root."""

    name: str
    access: Literal["read", "write", "read-write"]
    """What requests with this token may do with it."""
    overwrite: Literal["never"] | None = None
    """``never``: no request may replace content in it."""
    max_in_flight: int | None = None
    """How many requests may use it at the same time."""


class Roots(msgspec.Struct):
    """The roots that requests with this token may name."""

    roots: list[Root]


class Entry(msgspec.Struct, kw_only=True):
    """A file or a directory."""

    name: str
    key: str
    """The key by which requests refer to it."""
    is_directory: bool
    size_bytes: int | None = None
    """Null if unknown, and for a directory."""
    modified: str | None = None
    """In RFC 3339; null for a directory if the storage has no such time."""


class Listing(msgspec.Struct):
    """A page of a directory, by name."""

    entries: list[Entry]
    cursor: str | None = None
    """Requests the next page; null on the last one."""


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``list``."""

    key: Annotated[str, Meta(max_length=4096)] = ""
    """A directory below the root; empty for the root itself."""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """The maximum number of entries on a page."""
    cursor: str | None = None
    """The cursor of the previous page."""


class RootOperations:
    """Operations on the ``roots``, with ``rclone``."""

    def __init__(self, roots: CurrentRoots, rclone: Rclone) -> None:
        self._roots = roots
        self._listings = Listings(rclone)

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [
            Operation("GET", "/v1/roots", self.roots, {200: Roots}),
            Operation(
                "GET",
                "/v1/roots/{root}/list",
                self.list_directory,
                {200: Listing},
                query=ListQuery,
                problems=(404, 502, 503),
            ),
        ]

    async def roots(self, call: Call) -> Reply:
        """The roots that requests with this token may name."""
        return Reply(Roots(self.usable(call.caller)))

    async def list_directory(self, call: Call) -> Reply:
        """List a directory of a root: directories first, each kind by name.

        The token must be allowed to read or write the root. Names that are not UTF-8 are shown with U+FFFD.
        """
        return Reply(await self.listing(call.caller, call.path("root"), call.query))

    def usable(self, token: Token) -> list[Root]:
        """The roots that requests with this token may name."""
        return [root for name in self._roots.sections if (root := self._root(name, token)) is not None]

    async def listing(self, token: Token, name: str, query: ListQuery) -> Listing:
        """What is in a directory of the root ``name``. Raises Problem."""
        root = self._root(name, token)
        if root is None:
            raise Problem(404, f"there is no root {name!r} that this token may use")
        purpose: Literal["read", "write"] = "read" if "read" in root.access else "write"
        try:
            place = locate(self._roots.sections, name, query.key, "", is_root=is_empty(query.key))
            await self._roots.access.require(Use(purpose, name, place))
            page = await self._listings.page(place, query.cursor, query.limit)
        except Failure as failure:
            raise Problem(400, failure.message) from None
        except (NotFound, WrongKind):
            raise Problem(404, f"there is no directory {name}:{query.key}") from None
        except RcloneError as error:
            raise Problem(502, masked(f"{name}:{query.key} can't be listed: {error.reason}")) from None
        entries = [_entry(item, place) for item in page.items]
        return Listing(entries, page.cursor)

    def _root(self, name: str, token: Token) -> Root | None:
        """The token's permissions for a root; None if it has none, or the root doesn't exist."""
        section = self._roots.sections.get(name)
        if section is None:
            return None
        allowed = [purpose for purpose in section.access.split("-") if token.may_use(name, purpose)]
        if not allowed:
            return None
        access = msgspec.convert("-".join(allowed), Literal["read", "write", "read-write"])
        return Root(name=name, access=access, overwrite=section.overwrite, max_in_flight=section.max_in_flight)


def _entry(item: Item, directory: Location) -> Entry:
    is_directory = item.is_dir
    return Entry(
        name=item.name,
        key=f"{directory.path}/{item.name}" if directory.path else item.name,
        is_directory=is_directory,
        size_bytes=None if is_directory or item.size < 0 else item.size,
        modified=item.mod_time or None,
    )
