"""A second, independent client of the evolution protocol, and what it demands of every machine."""
