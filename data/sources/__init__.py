"""What can be read: arrays, folders of images, .npz files, sets prepared by TensorFlow Datasets.

Not here: data sets by name and their splits (data/datasets.py), decoding (data/images.py).
"""
