"""Speed, measured: the input pipeline, models beside other people's, generators; the pages' tables.

Not here: counted costs such as multiply-adds (zoo/costs.py).
"""
