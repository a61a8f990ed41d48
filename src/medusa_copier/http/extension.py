"""Puts together what the copier adds to the HTTP API."""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any, Final

import msgspec

from medusa_copier.contract.parameters import root_uses
from medusa_copier.http.roots import RootOperations
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.current import CurrentRoots
from simple_queue_server.http.extension import Extension

PING_S: Final = 5.0


def extension(rclone: Rclone, roots: CurrentRoots) -> Extension:
    """Roots, the health of rclone, and the types of the messages."""

    async def rclone_check() -> None:
        await rclone.client.ping(timeout_s=PING_S)

    return Extension(
        title="medusa-copier",
        version=metadata.version("medusa-copier"),
        operations=RootOperations(roots, rclone).operations(),
        checks={"rclone": rclone_check},
        uses=root_uses,
        messages=_messages(),
    )


def _messages() -> dict[str, Any]:
    text = resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = msgspec.json.decode(text.replace("#/$defs/", "#/components/schemas/"))
    defined: dict[str, Any] = schema["$defs"]
    return defined
