"""The evolution protocol, seen from the client: framing, messages, errors."""
