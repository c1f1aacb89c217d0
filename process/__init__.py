"""The process that a script is: signals, streams, what a terminal gets, memory, compiled programs.

Not here: flags and exit codes (harness/commandline.py), other processes (parallel).
"""
