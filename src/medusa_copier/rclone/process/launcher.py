"""Run as a script: executes the given program so that the kernel kills it as soon as the parent dies (Linux).

``python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT…``. It is a separate program because ``preexec_fn`` isn't safe in
the presence of threads. The kernel's setting survives ``exec``. It imports little, since each command waits for it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
"""The module ``signal`` takes a third of the time that this program takes."""
NOT_RUN = 126
"""The exit status if the program can't be run; rclone has no such status."""


def main() -> None:
    """Never returns: executes the program, or exits."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"Error: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # it died before the order was given
        sys.exit("Error: the parent is gone")
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"Error: {command[0]} can't be run: {error.strerror}\n")
        sys.exit(NOT_RUN)


if __name__ == "__main__":
    main()
