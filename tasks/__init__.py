"""What one step computes: the Task protocol, classification, optimizers, evaluation metrics.

Not here: the loop (train.py), how a run is recorded (training), the GAN (tasks/gan).
"""
