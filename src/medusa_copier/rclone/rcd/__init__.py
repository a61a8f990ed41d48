"""The resident rclone (``rclone rcd``): started, watched, and called over its Unix socket."""
