"""Run ``levit`` as ``python -m levit_cli``."""

from levit_cli.cli import main

if __name__ == "__main__":
    main()
