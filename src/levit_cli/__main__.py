"""``python -m levit_cli``, the same as the command ``levit``."""

from levit_cli.cli import main

if __name__ == "__main__":
    main()
