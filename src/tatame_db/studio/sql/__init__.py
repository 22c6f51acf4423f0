"""The SQL page: a session on the server for each tab, and the statements that run in it."""
