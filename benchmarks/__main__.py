"""Command line of the benchmarks; the worker processes of a benchmark load this file, too, so that it imports late."""

if __name__ == "__main__":
    from benchmarks.suite import main

    main()
