"""The command line: `ggsurgery` and `python -m ggsurgery`."""

from __future__ import annotations

import os
import sys


def run() -> None:
    """Run the command line; Ctrl-C while its modules load prints no traceback."""
    try:
        from .cli import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("ggsurgery: interrupted before it began\n")
        sys.stderr.flush()
        os._exit(130)


if __name__ == "__main__":
    run()
