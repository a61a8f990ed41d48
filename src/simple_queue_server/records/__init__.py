"""The history of requests: written beside the pipeline, queried by commands, the HTTP API and its pages.

::

    spool.py        a service or client appends events to a file of its own: cheap, and it survives kill -9
    entries.py      what such a file holds
    recorder.py     the service's side: observes requests, and has a worker move spools into the database
    worker.py       that worker, a process of its own · worker_client.py (starts, uses and ends it) · worker_messages.py
    upkeep.py       what a worker does
    ingest.py       entries → rows
    schema.py       the tables, and the steps from each version of them to the next
    database.py     SQLite or PostgreSQL, opened and upgraded
    query.py        filters, pages, groups, charts
    cancel_marks.py queued requests that were cancelled · cancel_marks_table.py (in the database)
    retention.py    what is too old, or too much, is removed

Only the spool and its entries are on the path of a request; everything else is imported only where it is used.
"""
