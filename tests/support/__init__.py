"""What the tests, the chaos suite and the benchmarks share: real servers on free ports, services as processes."""
