"""python -m sightword.cli: the command line."""

import sys

from sightword.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
