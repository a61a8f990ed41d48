"""Log events have names of one style, and docs/operations.md lists each of them with its levels."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STYLE = re.compile(r"[a-z]+(_[a-z]+)+")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def logged() -> dict[str, set[str]]:
    """``{"queue_created": {"info"}, …}``: every event in the sources, with the levels that it is logged at."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for event, level in events_of(node):
                    found[event].add(level)
    return {event: {"any"} if "any" in levels else levels for event, levels in found.items()}


def events_of(call: ast.Call) -> Iterator[tuple[str, str]]:
    """The events that a call logs: of ``log.info(…)`` and the like, and of a Trouble, which logs two."""
    function = ast.unparse(call.func)
    receiver, _, method = function.rpartition(".")
    if receiver in {"log", "self._log", "bound"} and method in LEVELS and call.args:
        yield from ((event, "error" if method == "exception" else method) for event in texts(call.args[0]))
    elif function == "log.log":
        yield from ((event, "any") for event in texts(call.args[1]))
    elif function == "level":  # log.warning or log.error
        yield from ((event, level) for event in texts(call.args[0]) for level in ("warning", "error"))
    elif function == "Trouble":
        for event in texts(call.args[1]):
            yield event, "error"
            yield f"{event}_resolved", "warning"


def texts(expression: ast.expr) -> Iterator[str]:
    if isinstance(expression, ast.IfExp):
        yield from texts(expression.body)
        yield from texts(expression.orelse)
    elif isinstance(expression, ast.Constant):
        yield str(expression.value)


def documented() -> dict[str, set[str]]:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.partition("<!-- events:begin -->")[2].partition("<!-- events:end -->")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([a-z, ]+) \|", table, flags=re.MULTILINE)
    return {name: set(levels.split(", ")) for names, levels in rows for name in re.findall(r"`(\w+)`", names)}


def test_every_event_is_a_snake_case_name() -> None:
    assert not {event for event in logged() if not STYLE.fullmatch(event)}


def test_every_event_is_documented_with_its_levels_and_no_other_is() -> None:
    assert documented() == logged()


def test_every_documented_event_has_a_description() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `[^|]+` \| [a-z, ]+ \| ([^|]*) \|[^|]*\|$", page, flags=re.MULTILINE)
    assert len(rows) > len(documented()) / 2
    assert all(rows)
