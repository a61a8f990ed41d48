"""The fixtures that any test may ask for."""

import os
import sys

import structlog
from hypothesis import HealthCheck, settings

from tests.support.postgresql import postgresql
from tests.support.rabbitmq import rabbitmq, rabbitmq_node
from tests.support.sqs_servers import moto_server, sqs_server
from tests.support.storage_fixtures import buckets, client, daemon, rclone_binary, world

__all__ = [
    "buckets",
    "client",
    "daemon",
    "moto_server",
    "postgresql",
    "rabbitmq",
    "rabbitmq_node",
    "rclone_binary",
    "sqs_server",
    "world",
]

# The tests start hundreds of processes from this tree: without bytecode each of them would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How fast a machine is says nothing about what is tested. A run draws the same examples each time, so that a failure is
# of the change that it came with; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("repeatable"), derandomize=False, max_examples=10_000)
settings.load_profile("repeatable")

# A traceback with all local values takes up to a second to draw.
*processors, _ = structlog.get_config()["processors"]
structlog.configure([*processors, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
