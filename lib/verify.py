"""The command `python -m lib.verify`; what it does is in :mod:`lib.report.verify`."""

from lib.report.verify import main

if __name__ == "__main__":
    main()
