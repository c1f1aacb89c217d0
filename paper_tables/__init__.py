"""The papers' tables as data, beside what this code computes, measures and trains for their rows.

Not here: the numbers themselves (configs/tables/), how runs are started (sweeps/).
"""
