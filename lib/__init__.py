"""The library behind the notebooks, in rooms; docs/how-it-is-built.md says what is in each, in the order of imports.

The modules beside the rooms are commands (`python -m lib.generate`, `lib.evaluate`, ...) without logic of their own.
"""
