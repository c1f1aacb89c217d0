"""How a run runs: building it from a config, checkpoints, evaluation, reports, signals.

Not here: the loop itself (train.py), what a step computes (tasks).
"""
