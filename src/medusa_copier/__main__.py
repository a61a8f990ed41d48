"""``python -m medusa_copier`` is the command ``medusa-copier``."""

from medusa_copier.cli import main

if __name__ == "__main__":
    main(prog_name="medusa-copier")
