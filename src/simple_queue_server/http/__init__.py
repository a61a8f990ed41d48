"""The HTTP API, health and metrics, beside the pipeline. Imported only when ``http`` is configured."""
