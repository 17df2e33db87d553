"""The journal on a state device, as a second implementation reads it: spec/journal.md."""
