"""Maps of the image at several strides, out of any classifier, for heads that say where.

Not here: the classifiers (nest, tnt, baselines); the heads on the maps (segmentation, detection).
"""
