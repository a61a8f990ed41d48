"""What the copier adds to the HTTP API. Imported only when ``http`` is configured."""
