"""What a detection or segmentation finds: drawn on images, and in COCO's form.

Not here: answers about whole images (inference), or how good what is found is (tasks, reports).
"""
