"""Requests that must outlive the broker's patience, and this process: on disk, in the run directory."""
