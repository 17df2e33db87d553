"""The journal on a state device, read as spec/journal.md says: a second implementation, which never writes."""
