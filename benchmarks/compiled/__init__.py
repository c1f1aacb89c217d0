"""Steps compiled for GPUs and TPU slices that are not here: memory, bytes and collectives.

Not here: what is measured by running it (benchmarks).
"""
