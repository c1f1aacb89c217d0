"""Models that the papers compare with: ViT/DeiT, ResNets, Inception-v3, full-attention generators.

Not here: NesT (nest), TNT (tnt), the table of all models by name (zoo/registry.py).
"""
