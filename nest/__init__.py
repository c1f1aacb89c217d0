"""NesT, the nested hierarchical transformer (arXiv 2105.12723): the model and others' weights.

Not here: its training (tasks), reading weights files (zoo), its GAN's training (tasks/gan).
"""
