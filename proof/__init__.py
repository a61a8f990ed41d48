"""The proof: what the service answers, compared with what is on the storages' own disks. ``make proof``.

Pairs of storages, what a request asks, damage at rest, on the wire and under way, and odd names: cases drawn from a
seed, many in flight in one service. The verdict uses nothing of the service: it reads the directories that the storage
servers serve.

::

    __main__    arguments → run → the table
    run         READ FIRST: from an empty directory to a verdict
    cases       what is asked, what is in its way, and by which names: the space that cases are drawn from
    names       names that storages, encodings and tools stumble over
    storages    the storages, each with the directory behind it
    scene       a case on disk: what is at source and target before, what may be at the target after
    wire        an HTTP proxy that flips, cuts, shortens and loses what it carries, and changes files half way
    verdict     a response and what is on disk → findings. Pure
    table       numbers → Markdown
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
