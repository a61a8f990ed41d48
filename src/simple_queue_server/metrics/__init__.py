"""Metrics for Prometheus: counted, looked at, and written to a file. Imported only where somebody wants them."""
