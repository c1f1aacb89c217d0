"""Mathematics that NesT, TNT and ViT share. Imports jax and flax only."""
