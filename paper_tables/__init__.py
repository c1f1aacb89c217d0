"""The papers' tables (data: configs/tables/) and what this code computes, measures and trains for them.

Not here: how runs are started (sweeps/), and their page with pictures (reports/).
"""
