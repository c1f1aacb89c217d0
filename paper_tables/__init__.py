"""The papers' tables (configs/tables/) and what this code computes, measures, trains for them.

Not here: how runs are started (sweeps/), and their page with pictures (reports/).
"""
