"""One module a question, with ``measure(world) -> dict``: plain data for ``targets`` and ``plots``."""
