"""Recipes: each file has get_config(argument), and common.py what they share.

Not here: what a value means, see the docstring of the function that takes the section.
"""
