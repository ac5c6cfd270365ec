"""`python -m surgeon`: the same command line as `surgeon`, for whoever starts modules."""

from __future__ import annotations

import sys

from surgeon.cli import main

if __name__ == "__main__":
    sys.exit(main())
