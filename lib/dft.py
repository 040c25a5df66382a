"""The command `python -m lib.dft`; what it does is in :mod:`lib.studies.first_principles`."""

from lib.studies.first_principles import main

if __name__ == "__main__":
    main()
