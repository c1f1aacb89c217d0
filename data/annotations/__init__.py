"""Images with objects in boxes or with a class at each pixel: sources, augmentations, batches.

Not here: what reads, orders and batches any records (data), or what learns from them (tasks).
"""
