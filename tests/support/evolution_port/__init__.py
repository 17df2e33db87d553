"""A pexpect client of the evolution port, for tests: it shares no code with `vboot.protocol`."""
