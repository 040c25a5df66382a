"""The command `python -m lib.references`; what it does is in :mod:`lib.datasets.references`."""

from lib.datasets.references import main

if __name__ == "__main__":
    main()
