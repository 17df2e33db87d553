"""A second, independent client of the evolution protocol, and the checks that every machine must pass."""
