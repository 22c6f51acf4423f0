"""From an address to connections, sessions and health."""
