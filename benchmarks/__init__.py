"""Speed, measured: the input pipeline and generators, for tools/benchmark.py.

Not here: counted costs such as multiply-adds (zoo/costs.py).
"""
