"""`python -m ggsurgery` is the command line."""

from .cli import main

main()
