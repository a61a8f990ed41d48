"""What the operating system is asked: locks, mounts, the event loop."""
