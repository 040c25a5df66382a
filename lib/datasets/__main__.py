"""Command line of :mod:`lib.datasets.shards`."""

from lib.datasets.shards import main

if __name__ == "__main__":
    main()
