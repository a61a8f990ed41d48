"""A directory copy by an rclone process, with an account of each file."""
