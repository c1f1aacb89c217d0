"""Many runs from one command: which there are, starting them, where they stand, what came out.

Not here: one run (training/), the papers' tables (paper_tables/), HTML pages (reports/).
"""
