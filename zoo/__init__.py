"""Any model by name (registry.py), weights from any file (load.py) and their formats (formats.py).

Not here: the models themselves (nest, tnt, baselines), training checkpoints (training).
"""
