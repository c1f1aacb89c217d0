"""Pictures of a model's inside, as in the papers: arrays from models, figures from arrays.

Not here: GradCAT (nest/gradcat.py), other explanations (inference/explain.py), curves (training).
"""
