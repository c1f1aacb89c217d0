"""Images with boxes or masks: sources, augmentations that carry them along, batches.

Not here: what reads, orders and batches any records (data), or what learns from them (tasks).
"""
