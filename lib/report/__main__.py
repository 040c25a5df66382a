"""The command `python -m lib.report`; what it does is in :mod:`lib.report.runs`."""

from lib.report.runs import main

if __name__ == "__main__":
    main()
