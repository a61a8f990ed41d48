"""rclone as a process: binary, command line, environment, pipes, and commands run to their end."""
