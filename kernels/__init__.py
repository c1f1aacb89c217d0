"""Single operations in several forms: a plain one that defines the numbers, and fast ones.

Not here: modules with parameters (layers/), and how a paper puts them together (nest/, tnt/).
"""
