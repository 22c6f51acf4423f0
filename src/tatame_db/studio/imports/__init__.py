"""Import of CSV and JSON: read from a file, and tried by PostgreSQL row by row where a batch of rows fails."""
