"""Everything about rclone: the supervised resident process, typed calls to it, and its errors.

The rest of the service imports its entry modules only, which an import contract in pyproject.toml enforces: ``facade``
(calls), ``directory`` (copies of directories), ``errors``, ``location``, ``terms`` and ``names``.

``process`` finds and starts the binary; ``rcd`` supervises the resident rclone and calls it; ``directory`` copies and
compares directories with one-off commands and keeps a ledger of each file's outcome.
"""
