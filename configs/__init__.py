"""Recipes. Each file has get_config(argument) and imports nothing of this repository but common."""
