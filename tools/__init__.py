"""What a person runs beside train.py and evaluate.py."""
