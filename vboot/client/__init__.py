"""The client of a running machine; `vboot.client.machine.connect` is the way in."""
