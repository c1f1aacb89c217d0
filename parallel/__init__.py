"""Many devices and many processes: the mesh, how processes meet, who has died, what hangs.

Not here: what a step computes (tasks), and how data is split (data/loading.py).
"""
