"""The fixtures that any test may ask for."""

from rabbitmq import rabbitmq, rabbitmq_node

__all__ = ["rabbitmq", "rabbitmq_node"]
