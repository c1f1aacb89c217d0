"""A class for every pixel: Trans2Seg's decoder on the maps of any classifier, and its measures.

Not here: the maps (features), images with masks (data/annotations), the task (tasks).
"""
