"""The command `python -m lib.build_embedded`; what it does is in :mod:`lib.datasets.build_embedded`."""

from lib.datasets.build_embedded import main

if __name__ == "__main__":
    main()
