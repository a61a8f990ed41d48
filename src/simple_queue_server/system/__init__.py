"""Interfaces to the operating system: locks, mounts, signals, the event loop."""
