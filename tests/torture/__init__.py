"""Random changes and their ways back against a running machine, every byte predicted: `python -m tests.torture`."""
