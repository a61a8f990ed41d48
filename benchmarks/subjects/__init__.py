"""One module per question, with ``measure(world) -> dict``: plain data for ``targets`` and ``plots``."""
