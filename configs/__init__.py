"""Recipes: each file has get_config(argument), and common.py what they share.

Not here: what a value means; that stands at the function whose arguments a section holds.
"""
