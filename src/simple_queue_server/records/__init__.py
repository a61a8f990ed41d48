"""What became of each request: written beside the pipeline, asked by commands and pages.

::

    spool.py        a service or client appends what happened to a file of its own: cheap, and it survives kill -9
    entries.py      what such a file holds
    recorder.py     the service's side: observes requests, and has a worker move spools into the database
    worker.py       that worker, a process of its own · worker_process.py (starts and ends it) · work.py (what both say)
    upkeep.py       what a worker does
    ingest.py       entries → rows
    schema.py       the tables, and the steps from each version of them to the next
    database.py     SQLite or PostgreSQL, opened and upgraded
    query.py        filters, pages, groups, charts
    marks.py        requests that are to be cancelled when a service takes them · marks_table.py (in the database)
    retention.py    what is too old, or too much, is removed

Only the spool and its entries are on the way of a request; nothing else is imported where it isn't used.
"""
