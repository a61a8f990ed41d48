"""Copies content between storage endpoints when a message asks for it: JSON requests on a queue, rclone underneath."""
