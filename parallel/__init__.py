"""Many devices and many processes: the mesh, and where each array lives on it.

Not here: what a step computes (tasks), and how data is split (data/loading.py).
"""
