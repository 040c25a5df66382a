"""The command `python -m lib.recall`; what it does is in :mod:`lib.studies.recall`."""

from lib.studies.recall import main

if __name__ == "__main__":
    main()
