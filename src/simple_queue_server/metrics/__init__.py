"""Metrics for Prometheus: counted, sampled, and written to a file. Imported only if wanted."""
