"""The transposed NesT as an image generator, and the discriminators it is trained against.

Not here: losses, steps and metrics of the GAN (tasks/gan).
"""
