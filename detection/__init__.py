"""Objects in images as boxes: DETR on the maps of any classifier, its matching and its losses.

Not here: the maps (features), images with boxes and their metrics (data/annotations), the task.
"""
