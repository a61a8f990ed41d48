"""What the service is measured beside. None of it uses the service's code."""
