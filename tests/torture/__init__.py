"""Random mutations and rollbacks against a running machine, with every byte predicted: `python -m tests.torture`."""
