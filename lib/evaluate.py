"""The command `python -m lib.evaluate`; what it does is in :mod:`lib.studies.evaluation`."""

from lib.studies.evaluation import main

if __name__ == "__main__":
    main()
