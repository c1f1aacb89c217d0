"""Pictures of a model's inside, as in the papers: arrays of the model, figures of the arrays.

Not here: GradCAT (nest/gradcat.py), other explanations (inference/explain.py), curves (training).
"""
