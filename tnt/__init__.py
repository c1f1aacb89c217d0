"""TNT, transformer in transformer (arXiv 2103.00112): model, variants, other codes' weights.

Not here: its training (tasks), reading weights files (zoo).
"""
