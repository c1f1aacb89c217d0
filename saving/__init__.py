"""Saving the state of a run and restoring it: complete or not at all, and verified.

Not here: the records next to the checkpoints (workdirs), weights for other uses (zoo).
"""
