"""`python -m lib.dismai`: see :mod:`lib.dismai.commands`."""

from lib.dismai.commands import main

if __name__ == "__main__":
    main()
