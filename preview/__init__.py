"""What a config says and would do, before anything runs: its sections, sources, costs, batch.

Not here: checking and building it (training/experiment.py), pictures (training/batch_pictures.py).
"""
