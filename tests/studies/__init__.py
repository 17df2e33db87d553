"""Experiments on the real model, written up in docs/: how far evolution gets, and where its limits are."""
