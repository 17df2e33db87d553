"""RustNeuralBridge under its published name; the code is `vboot.client.bridge`."""

from vboot.client.bridge import RustNeuralBridge

__all__ = ["RustNeuralBridge"]
