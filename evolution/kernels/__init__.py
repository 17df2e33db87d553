"""Evolved kernels: small programs that transform an embedding, for the pixel machine and for WGSL."""
