"""The Python side of a running machine; `evolution.client.connect` is the way in."""
