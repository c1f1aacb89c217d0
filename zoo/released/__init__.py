"""Weights that others have released, by name: the table, the download, and where they then lie.

Not here: reading the files (zoo/formats.py), prepared data sets (tools/prepare_data.py).
"""
