"""The home of each table: one of the two databases takes writes, and the other refuses them and follows."""
