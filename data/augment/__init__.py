"""Augmentation: transforms of uint8 images on the host; erasing, mixup and cutmix on the device.

Not here: evaluation's preprocessing order and loading (data/pipeline.py, data/loading.py).
"""
