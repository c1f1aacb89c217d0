"""Speed and cost, measured on devices and of programs compiled for others, for the tools.

Not here: costs counted from a model alone, such as multiply-adds (zoo/costs.py).
"""
