"""The benchmarks: the service compared with its alternatives, measured in one run. ``make bench``.

::

    __main__      arguments → the measurements → docs/benchmarks.md
    plan          workload sizes
    stage         the environment of a run: directories in memory, RabbitMQ, S3, services
    files         sources, targets, and whether they are the same
    queues        RabbitMQ from its clients' side: publish, watch, drain
    drive         READ FIRST: a full queue, a service, the rate, and the proof that every file was copied
    subjects/     one module per question: rates, latency, sizes, large, trees, endurance, http, distance…
    alternatives/ what is measured beside it: a process a request, Celery, a bare echo, bare rc calls
    figures       medians, percentiles, ratios of the same round
    targets       data → the table of performance targets
    page, plots   data → docs/benchmarks.md and its pictures
    machine       what it was measured on, and with

It starts servers and services by ``tests/support``, as the tests do.
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
