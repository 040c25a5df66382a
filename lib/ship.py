"""The command `python -m lib.ship`; what it does is in :mod:`lib.generation.ship`."""

from lib.generation.ship import main

if __name__ == "__main__":
    main()
