"""The evolution protocol, for a client: framing, messages, errors, and the tables of its specification."""
