"""From a data set's name to sharded batches: data sets, decoding, loading, evaluation padding.

Not here: what single kinds of data sets look like (data/sources), augmentation (data/augment).
"""
