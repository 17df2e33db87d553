"""Edits of weights and their exact effect: edits, recipes, the numpy twin, noise, storage types, pixel programs."""
