"""Two panes side by side: what to copy, and where to; how; and a preview of exactly what will be asked."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from medusa_copier.contract.parameters import ACTIONS, decode
from medusa_copier.http.roots import Entry, Listing, ListQuery, Root, RootOperations
from simple_queue_server import Failure
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui.pages import Pages, Visit
from simple_queue_server.http.ui.parts import Asking

ON_A_PANE: Final = 300
MAX_CHOSEN: Final = 1000
SHOWN: Final = 20
UNKNOWN_BYTE: Final = "\ufffd"
"""What replaces bytes of a name that are not UTF-8: JSON can't represent such a name."""

OVERWRITE: Final = (
    ("if_different", "Replace it if it differs", "What is the same stays as it is. This is what most people want."),
    ("never", "Never replace it", "Where other content is there, the copy fails, and says so."),
    ("always", "Always copy it again", "Also what is the same; takes longest."),
)
VERIFY: Final = (
    ("default", "Check while it is copied", "The size, and a checksum of every transfer that its storage can give."),
    ("checksum", "Prove it by checksum", "Source and target must have the same checksum, also what was there before."),
    ("download", "Read everything back", "Every byte of source and target is read again and compared; takes longest."),
)


class PanesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the panes show: a root, a directory below it, and the name after which the pane begins."""

    source_root: str = ""
    source_key: str = ""
    source_after: str = ""
    target_root: str = ""
    target_key: str = ""
    target_after: str = ""

    def path(self, **changes: str) -> str:
        """The address of the panes, changed."""
        fields = {name: value for name, value in (msgspec.to_builtins(self) | changes).items() if value}
        return "/copy" + (f"?{urlencode(fields)}" if fields else "")


@dataclass(frozen=True, slots=True)
class _Row:
    entry: Entry
    path: str | None
    """Where a directory is shown."""
    can_be_chosen: bool


@dataclass(frozen=True, slots=True)
class _Pane:
    side: str
    title: str
    root: str
    key: str
    roots: list[Root]
    crumbs: list[tuple[str, str]]
    rows: list[_Row]
    problem: str | None
    next_page: str | None
    first_page: str | None


@dataclass(frozen=True, slots=True)
class _Planned:
    """A request as it will be asked, and the same as a command line."""

    what: str
    body: str
    command: str


class CopyPage:
    """The panes, their preview, and what it leads to."""

    def __init__(self, pages: Pages, roots: RootOperations, asking: Asking) -> None:
        self._pages = pages
        self._roots = roots
        self._asking = asking

    def operations(self) -> list[Operation]:
        """The pages."""
        return [
            self._pages.page("/copy", self.panes, name="Copy", query=PanesQuery),
            self._pages.form("/copy/preview", self.preview),
            self._pages.form("/copy/ask", self.ask),
        ]

    async def panes(self, visit: Visit) -> Response:
        """Source and target, side by side."""
        query: PanesQuery = visit.query
        source, target = await asyncio.gather(
            self._pane(visit.token, query, "source", "From"), self._pane(visit.token, query, "target", "To")
        )
        return self._pages.render(
            "ui/copy.html",
            visit,
            query=query,
            panes=[source, target],
            can_ask=bool(query.source_root and query.target_root) and not (source.problem or target.problem),
            overwrite=OVERWRITE,
            verify=VERIFY,
        )

    async def preview(self, visit: Visit) -> Response:
        """Exactly what will be asked."""
        planned = _planned(visit)
        back = _query(visit).path()
        return self._pages.render(
            "ui/preview.html",
            visit,
            planned=planned[:SHOWN],
            count=len(planned),
            fields=[(name, value) for name, values in visit.form.items() if name != "proof" for value in values],
            back=back,
        )

    async def ask(self, visit: Visit) -> Response:
        """Puts the requests on the queue."""
        planned = _planned(visit)
        ids = [await self._asking.send(visit.token, each.body.encode()) for each in planned]
        if len(ids) == 1:
            return RedirectResponse(f"/requests?{urlencode({'id': ids[0]})}", 303)
        return RedirectResponse("/", 303)

    async def _pane(self, token: Token, query: PanesQuery, side: str, title: str) -> _Pane:
        needed = {"source": "read", "target": "write"}[side]
        roots = [root for root in self._roots.usable(token) if needed in root.access]
        name, key = getattr(query, f"{side}_root"), getattr(query, f"{side}_key")
        after = getattr(query, f"{side}_after")
        listing, problem = await self._listing(token, name, key, after) if name else (Listing([]), None)
        has_more = listing.cursor is not None
        return _Pane(
            side=side,
            title=title,
            root=name,
            key=key,
            roots=roots,
            crumbs=_crumbs(query, side, name, key),
            rows=[_row(query, side, entry) for entry in listing.entries],
            problem=problem,
            next_page=query.path(**{f"{side}_after": listing.cursor or ""}) if has_more else None,
            first_page=query.path(**{f"{side}_after": ""}) if after else None,
        )

    async def _listing(self, token: Token, name: str, key: str, after: str) -> tuple[Listing, str | None]:
        try:
            wanted = ListQuery(key=key, limit=ON_A_PANE, cursor=after or None)
            return await self._roots.listing(token, name, wanted), None
        except Problem as problem:
            return Listing([]), problem.detail


def _crumbs(query: PanesQuery, side: str, root: str, key: str) -> list[tuple[str, str]]:
    """The root and each directory on the way to the key, with the addresses that show them."""
    parts = key.split("/") if key else []
    places = [(part, "/".join(parts[: number + 1])) for number, part in enumerate(parts)]
    return [
        (name, query.path(**{f"{side}_key": place, f"{side}_after": ""})) for name, place in [(f"{root}:", ""), *places]
    ]


def _row(query: PanesQuery, side: str, entry: Entry) -> _Row:
    is_nameable = UNKNOWN_BYTE not in entry.key
    opens = entry.is_directory and is_nameable
    path = query.path(**{f"{side}_key": entry.key, f"{side}_after": ""}) if opens else None
    return _Row(entry, path, side == "source" and is_nameable)


def _query(visit: Visit) -> PanesQuery:
    return PanesQuery(**{name: visit.field(name) for name in PanesQuery.__struct_fields__})


def _planned(visit: Visit) -> list[_Planned]:
    """The requests of a form. Raises Problem."""
    query = _query(visit)
    if not (query.source_root and query.target_root):
        raise Problem(400, "choose a root to copy from and one to copy to")
    chosen = visit.form.get("file", []) + visit.form.get("directory", [])
    if len(chosen) > MAX_CHOSEN:
        raise Problem(400, f"choose at most {MAX_CHOSEN} at a time, or the directory that they are in")
    files = [_file(query, visit, key) for key in visit.form.get("file", [])]
    directories = [_directory(query, visit, key) for key in visit.form.get("directory", [])]
    return [*directories, *files] or [_directory(query, visit, query.source_key, is_open=True)]


def _file(query: PanesQuery, visit: Visit, key: str) -> _Planned:
    target_key = _below(query.target_key, key)
    return _request("copyto", query, key, target_key, _options(visit))


def _directory(query: PanesQuery, visit: Visit, key: str, *, is_open: bool = False) -> _Planned:
    target_key = query.target_key if is_open else _below(query.target_key, key)
    options = _options(visit)
    if visit.field("manifest"):
        name = target_key or query.source_key.rpartition("/")[2] or query.source_root
        options["manifest"] = {"root": query.target_root, "key": f"{name}.manifest.jsonl"}
    return _request("copy", query, key, target_key, options)


def _options(visit: Visit) -> dict[str, Any]:
    """The form's options other than source and target that are not the defaults."""
    given = {"overwrite": visit.field("overwrite"), "verify": visit.field("verify")}
    return {name: value for name, value in given.items() if value not in {"", "if_different", "default"}}


def _request(action: str, query: PanesQuery, key: str, target_key: str, options: Mapping[str, Any]) -> _Planned:
    parameters = {
        "source_root": query.source_root,
        "source_key": key,
        "target_root": query.target_root,
        "target_key": target_key,
        **options,
    }
    try:
        decode(parameters, ACTIONS[action])
    except Failure as failure:
        raise Problem(400, failure.message) from None
    source, target = f"{query.source_root}:{key}", f"{query.target_root}:{target_key}"
    body = msgspec.json.encode({"action": action, "parameters": parameters}).decode()
    what = "The file" if action == "copyto" else "Everything in"
    return _Planned(f"{what} {source} to {target}", body, _command(action, source, target, options))


def _command(action: str, source: str, target: str, options: Mapping[str, Any]) -> str:
    arguments: list[str] = [] if action == "copyto" else ["--action", action]
    for name, value in options.items():
        text = f"{value['root']}:{value['key']}" if name == "manifest" else str(value)
        arguments += [f"--{name}", text]
    return shlex.join(["medusa-copier", "submit", *arguments, *_places(source, target)])


def _places(source: str, target: str) -> Sequence[str]:
    return ["--", source, target] if source.startswith("-") or target.startswith("-") else [source, target]


def _below(directory: str, key: str) -> str:
    """The place below ``directory`` with the last name of ``key``."""
    name = key.rpartition("/")[2]
    return f"{directory}/{name}" if directory else name
