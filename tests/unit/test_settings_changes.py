"""What a changed configuration changes at once, and what it doesn't."""

from typing import Any

import msgspec
import pytest

from medusa_copier.settings import CopierSettings
from simple_queue_server.settings import loader
from simple_queue_server.settings.changes import RELOADABLE, changes

BEFORE: dict[str, Any] = {
    "server": {"name": "copier"},
    "amqp": {"incoming_queue": "in", "connection": {"password": "hunter2"}},
    "roots": {"a": {"rclone_config": "/a"}, "b": {"rclone_config": "/b"}},
}


def settings(**sections: Any) -> CopierSettings:
    text = msgspec.json.encode(BEFORE | sections).decode()
    return loader.parse(text, CopierSettings, source="test")


@pytest.mark.parametrize(
    ("sections", "applied", "left"),
    [
        ({}, [], []),
        ({"server": {"name": "copier", "max_in_flight": 5}}, ["server.max_in_flight"], []),
        ({"server": {"name": "other", "shutdown_grace_s": 5}}, ["server.shutdown_grace_s"], ["server.name"]),
        ({"log": {"level": "debug", "destination": "x"}}, ["log.level"], ["log.destination"]),
        (
            {"roots": {"a": {"rclone_config": "/c"}, "c": {"rclone_config": "/c"}}},
            ["roots.a", "roots.b", "roots.c"],
            [],
        ),
        ({"amqp": {"incoming_queue": "in", "connection": {"password": "12345"}}}, [], ["amqp.connection"]),
        ({"sqs": {"incoming_queue": "in"}}, [], ["sqs"]),
        ({"rclone": {"flags": {"transfers": 8}}}, [], ["rclone.flags"]),
    ],
)
def test_each_option_that_changed_is_named(sections: Any, applied: list[str], left: list[str]) -> None:
    former, new = settings(), settings(**sections)
    found = changes(former, new, RELOADABLE | {"roots"})
    assert (found.applied, found.left) == (applied, left)
    assert changes(former, found.effective, RELOADABLE | {"roots"}).left == []
    assert changes(found.effective, new, RELOADABLE | {"roots"}).applied == []
    assert ("hunter2" in repr(found)) is False or found.effective.amqp is not None


def test_every_option_that_is_reloadable_exists() -> None:
    for path in RELOADABLE:
        section, _, option = path.partition(".")
        (kind,) = [field.type for field in msgspec.structs.fields(CopierSettings) if field.name == section]
        assert option in {field.encode_name for field in msgspec.structs.fields(kind)}
