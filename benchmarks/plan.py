"""Workload sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The amounts of a whole run; :data:`QUICK` is a run to see that it works, whose figures mean little."""

    rounds: int = 3
    """How often what is compared is measured, in turn."""
    slow_rounds: int = 2
    """The same where one takes minutes: the directory with checksums, over a distance, beside a large copy."""
    requests: int = 5_000
    """On a full queue, 4 KiB each."""
    sqs_requests: int = 1_000
    """Of SQS there is a stand-in on this machine only, which takes longer than we do."""
    s3_calls: int = 2_000
    """Bare rc calls to S3: so much is possible there."""
    in_flight: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    in_flight_requests: int = 1_000
    processes: int = 80
    """Of rclone, one a request, in each round."""
    celery_tasks: int = 80
    latencies: int = 250
    """Requests one after another, in each round."""
    sizes: tuple[tuple[int, int, int], ...] = (
        (4 * KIB, 1000, 40),
        (64 * KIB, 1000, 40),
        (MIB, 300, 30),
        (16 * MIB, 32, 5),
        (256 * MIB, 3, 1),
    )
    """Size in bytes, files for the service, files for the commands."""
    large_bytes: int = 4 * GIB
    beside_bytes: int = 2 * GIB
    """Of the large file that small ones are copied beside."""
    tree_directories: int = 100
    """Of 1,000 files each."""
    distance_files: int = 2_000
    """Of 4 KiB, to and from a storage that is far away."""
    round_trips_ms: tuple[int, ...] = (1, 10, 40, 100)
    scaling_files: int = 400
    """For each copier."""
    server_files: int = 300
    """The same, to and from SFTP and WebDAV."""
    bulk_files: int = 20
    """Of 200 MiB, between local directories."""
    mix_files: int = 5
    """Of 200 MiB, to S3 far away, among the small ones."""
    bulk_small: int = 1_250
    queued_files: int = 12
    """Of 256 MiB, to S3 far away."""
    endurance_copies: int = 40
    """Of the short queue: 80,000 requests."""
    short_queue: int = 2_000
    short_queues: int = 3
    """How often the short queue is served before the long one, and again after it."""
    small: int = 1_000
    http_requests: int = 3_000
    """By each client, and on each full queue, beside the HTTP API."""
    http_per_s: int = 500
    scraped_rounds: int = 6
    """Of a full queue with the API and without: a service's rate differs by a fifth from one start to the next."""
    records: int = 1_000_000
    """That pages are made from."""
    small_per_s: int = 200
    """Beside a large copy."""

    @property
    def endurance(self) -> int:
        """Requests of the long queue."""
        return self.endurance_copies * self.short_queue

    @property
    def tree_files(self) -> int:
        """Files of the tree."""
        return self.tree_directories * 1000


QUICK: Final = Plan(
    rounds=1,
    slow_rounds=1,
    requests=1_000,
    sqs_requests=200,
    s3_calls=300,
    in_flight=(1, 4, 16, 64),
    in_flight_requests=300,
    processes=20,
    celery_tasks=20,
    latencies=50,
    http_requests=500,
    scraped_rounds=1,
    records=20_000,
    sizes=((4 * KIB, 100, 5), (MIB, 30, 5), (16 * MIB, 8, 2)),
    large_bytes=256 * MIB,
    beside_bytes=256 * MIB,
    tree_directories=3,
    distance_files=300,
    server_files=100,
    bulk_files=2,
    mix_files=2,
    bulk_small=100,
    queued_files=2,
    round_trips_ms=(1, 40),
    scaling_files=100,
    endurance_copies=10,
    short_queue=500,
    short_queues=2,
    small=200,
)
