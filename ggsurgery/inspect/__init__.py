"""What a file is, what is wrong with it, and how two differ: reading without changing."""
