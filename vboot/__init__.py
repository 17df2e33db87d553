"""What other programs import: errors, files, external programs, GGUF heads, the protocol, weights and the client."""
