"""TNT, the transformer in transformer (arXiv 2103.00112). Imports layers only."""
