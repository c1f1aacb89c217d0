"""NesT, the nested hierarchical transformer (arXiv 2105.12723). Imports layers only."""
