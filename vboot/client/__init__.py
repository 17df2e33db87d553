"""The client of a running machine (`vboot.client.machine.connect`) and the bridge (`vboot.client.bridge`)."""
