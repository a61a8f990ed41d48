"""The fixtures that any test may ask for."""

from rabbitmq import rabbitmq, rabbitmq_node
from sqs_servers import moto_server, sqs_server

__all__ = ["moto_server", "rabbitmq", "rabbitmq_node", "sqs_server"]
