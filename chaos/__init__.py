"""The chaos suite: real requests through real brokers while everything is killed, cut off and filled. ``make chaos``.

::

    __main__    arguments → runs → the table
    run         READ FIRST: one broker's run, from an empty directory to a verdict
    workload    the requests, and what must come of each
    stage       the world of a run: roots, S3 server, small disk, services that are started again when they end
    sides       the three brokers, each from its clients' side: send, collect, count, kill
    faults      what is done to all of these, and when: a schedule drawn from the seed
    verdict     responses and files → numbers
    table       numbers → Markdown
    soak        rounds of it until a million requests are served, resumable: ``make soak``

It starts servers and services by ``tests/support``, as the tests do.
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
