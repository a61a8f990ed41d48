"""``amqp.connection``: the keys of the Ruby client Bunny, as a typed value."""

from __future__ import annotations

import msgspec


class AmqpConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker. Every key is optional; the defaults are Bunny's."""

    host: str | None = None
    port: int | None = None
