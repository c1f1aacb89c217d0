"""How a run runs: building it from a config, evaluation, reports, signals, faults.

Not here: checkpoints (saving), the loop itself (train.py), what a step computes (tasks).
"""
