"""``python -m app RUN``: the explorer from a checkout."""

import sys

from graphprune.cli import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))
