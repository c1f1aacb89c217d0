"""The GAN task: both steps and their losses, sampling, and the metrics of generated images.

Not here: the generator and the discriminators as models (nest/gan).
"""
