"""Mathematics that NesT, TNT and ViT share, and the checks of their fields.

Not here: anything of one paper only (nest, tnt), configs and files.
"""
