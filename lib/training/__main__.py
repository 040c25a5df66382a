"""The command `python -m lib.training`; what it does is in :mod:`lib.training.trainer`."""

from lib.training.trainer import main

if __name__ == "__main__":
    main()
