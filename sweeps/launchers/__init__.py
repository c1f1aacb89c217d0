"""Where the runs of a sweep run: printed commands, this machine, and what else lends machines.

Not here: which runs there are and which of them are left (sweeps/).
"""
