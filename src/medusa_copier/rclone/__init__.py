"""Everything about rclone: the supervised resident process, typed calls to it, and its errors.

``facade`` is what the rest of the service uses. ``process`` finds and starts the binary; ``rcd`` supervises the
resident rclone and calls it; ``directory`` copies and compares directories with one-off commands and keeps a ledger of
each file's outcome.
"""
