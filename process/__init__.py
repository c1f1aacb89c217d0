"""The process that a script is: signals, streams, terminal, memory, compiled programs; who it is.

Not here: flags and exit codes (harness/commandline.py), other processes (parallel).
"""
