"""The program of the worker, ``python -m simple_queue_server.records NAME``; see ``worker.py``."""

from simple_queue_server.system.lean_imports import import_structlog

if __name__ == "__main__":
    import_structlog()
    from simple_queue_server.records import worker

    worker.main()
