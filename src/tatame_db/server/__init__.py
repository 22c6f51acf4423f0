"""PostgreSQL servers that this package starts: the embedded one, throw-away ones, and Docker's."""
