"""Pictures of what is inside a trained model: functions from arrays to figures.

Not here: what is drawn; inference/explain.py and nest/gradcat.py compute it. matplotlib's object
interface is used throughout: pyplot would keep global state and may open a display.
"""
