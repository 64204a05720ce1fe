"""Read-only inspection: describe a file, check it, and compare two."""
