"""What a detection or segmentation finds in images, drawn on them and in COCO's form.

Not here: answers about whole images (inference), or how good what is found is (tasks, reports).
"""
