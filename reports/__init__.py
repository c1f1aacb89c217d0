"""One HTML page that shows a run, two runs side by side, or a sweep: read, drawn, written.

Not here: what is measured (evaluate.py, inference), the curves that a run draws (training).
"""
