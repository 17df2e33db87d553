"""Edits of weights and their exact effect: recipes, arithmetic in numpy, noise, storage types, pixel programs."""
