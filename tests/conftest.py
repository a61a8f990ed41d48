"""The fixtures that any test may ask for."""

from hypothesis import HealthCheck, settings

from rabbitmq import rabbitmq, rabbitmq_node
from sqs_servers import moto_server, sqs_server
from storage_fixtures import client, daemon, world

__all__ = ["client", "daemon", "moto_server", "rabbitmq", "rabbitmq_node", "sqs_server", "world"]

# How fast a machine is says nothing about what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
