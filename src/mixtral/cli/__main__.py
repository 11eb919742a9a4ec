"""``python -m mixtral.cli`` is the same as ``mixtral``."""

from mixtral.cli.main import main

if __name__ == "__main__":
    main()
