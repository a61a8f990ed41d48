"""The resident rclone (``rclone rcd``): started, supervised, and called over its Unix socket."""
