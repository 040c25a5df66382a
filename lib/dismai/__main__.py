"""`python -m lib.dismai`: see :mod:`lib.dismai.score`."""

from lib.dismai.score import main

if __name__ == "__main__":
    main()
