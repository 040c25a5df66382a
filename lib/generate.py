"""The command `python -m lib.generate`; what it does is in :mod:`lib.generation.generate`."""

from lib.generation.generate import generate, main

__all__ = ["generate", "main"]

if __name__ == "__main__":
    main()
