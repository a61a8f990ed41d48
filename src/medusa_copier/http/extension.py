"""Assembles the copier's additions to the HTTP API."""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any, Final

import msgspec

from medusa_copier.contract.parameters import root_uses
from medusa_copier.describe import CopyDescriber
from medusa_copier.http.copy_page import CopyPage
from medusa_copier.http.roots import RootOperations
from medusa_copier.http.sentences import limit_sentence, verified_sentence
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.current import CurrentRoots
from simple_queue_server.http.extension import Extension
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.ui.pages import Pages
from simple_queue_server.http.ui.parts import Asking, Ui
from simple_queue_server.messages import Request
from simple_queue_server.records.description import Places

PING_S: Final = 5.0


def extension(rclone: Rclone, roots: CurrentRoots) -> Extension:
    """Roots, the health check of rclone, and the types of the messages."""

    async def rclone_check() -> None:
        await rclone.client.ping(timeout_s=PING_S)

    operations = RootOperations(roots, rclone)
    return Extension(
        title="medusa-copier",
        version=metadata.version("medusa-copier"),
        operations=operations.operations(),
        checks={"rclone": rclone_check},
        uses=root_uses,
        messages=_messages(),
        ui=_ui(operations, roots, rclone),
    )


def _ui(operations: RootOperations, roots: CurrentRoots, rclone: Rclone) -> Ui:
    def limit(request: Request) -> str:
        places = _places(request)
        sections = (roots.sections.get(name or "") for name in (places.source_root, places.target_root))
        strain = rclone.strain(section.fs for section in sections if section is not None)
        return limit_sentence(strain, rclone.bandwidth_limit)

    def pages(frame: Pages, asking: Asking) -> list[Operation]:
        return CopyPage(frame, operations, asking).operations()

    return Ui(
        pages=pages,
        packages=["medusa_copier.http"],
        roots=lambda: list(roots.sections),
        places=_places,
        limit=limit,
        verified=verified_sentence,
        first_step="Choose Copy above, or run: medusa-copier submit ROOT:KEY ROOT:KEY",
    )


def _places(request: Request) -> Places:
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    return CopyDescriber().places(str(request.action), parameters)


def _messages() -> dict[str, Any]:
    text = resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = msgspec.json.decode(text.replace("#/$defs/", "#/components/schemas/"))
    defined: dict[str, Any] = schema["$defs"]
    return defined
