"""Copies directories with an rclone process each, and keeps account of each file."""
