"""The Python library of vector_boot: errors, files, GGUF headers, the protocol, edits of weights, and the client.

Start with `vboot.client.machine.connect` (a running machine) or `vboot.client.bridge.RustNeuralBridge` (the runtime in
a child process).
"""
