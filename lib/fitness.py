"""The command `python -m lib.fitness`; what it does is in :mod:`lib.studies.outside_training`."""

from lib.studies.outside_training import main

if __name__ == "__main__":
    main()
