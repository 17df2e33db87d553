"""Weights between a running machine and GGUF files: save a machine's, or bring a machine to a file's."""
