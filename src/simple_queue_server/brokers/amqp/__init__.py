"""The broker for RabbitMQ and other AMQP 0-9-1 servers, based on aiormq."""
