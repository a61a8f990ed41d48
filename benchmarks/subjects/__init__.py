"""One module a question. Each has ``measure(world) -> dict``, plain data for benchmarks.targets and benchmarks.plots."""
