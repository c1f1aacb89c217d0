"""Any model by name, weights from any file: the registry, finding, reading and fitting weights.

Not here: the models themselves (nest, tnt, baselines), training checkpoints (training).
"""
