"""Recipes. Each file has get_config(argument) and imports nothing but other recipes and common."""
