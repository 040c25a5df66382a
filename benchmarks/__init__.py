"""How fast the library is, against plain readings of the same thing in the same process: `python -m benchmarks`.

A module measures one thing: its `measure(run)` yields :class:`benchmarks.timing.Result`, and its reference, where it
has one, must give the same answers before anything is timed. References and measured code take turns, so that what
slows the machine slows both.

:mod:`benchmarks.faults` measures the tests: how many faults, put into the code one at a time, they catch.
"""
