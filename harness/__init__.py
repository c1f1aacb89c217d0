"""What every command stands on: errors, strict configs, the command line, recipes, files, locks.

Not here: anything that knows a model, a data set or a task.
"""
