"""The way back: rows of the target written to the source, backwards through the mapping that a copy uses."""
