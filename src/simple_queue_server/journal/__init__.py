"""Requests that must outlive the broker's time limit and this process: on disk, in the run directory."""
