"""The copier's additions to the HTTP API. Imported only if ``http`` is configured."""
