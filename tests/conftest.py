"""The fixtures that any test may ask for."""

from rabbitmq import rabbitmq, rabbitmq_node
from sqs_servers import moto_server, sqs_server
from storage_fixtures import client, daemon, world

__all__ = ["client", "daemon", "moto_server", "rabbitmq", "rabbitmq_node", "sqs_server", "world"]
