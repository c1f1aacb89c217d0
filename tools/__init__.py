"""Thin scripts that a person runs, as `python -m tools.NAME` or by path.

Not here: library code; each script calls the room that does the work.
"""
