"""A trained model at work: prediction, export, samples, and the flags that name a model.

Not here: evaluation on a split (evaluate.py), reading weights files (zoo).
"""
