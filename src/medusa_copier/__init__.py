"""Copies content between storage endpoints on request: JSON messages on a queue, rclone underneath."""
