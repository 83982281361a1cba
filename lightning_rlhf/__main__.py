"""`python -m lightning_rlhf`: the same as the console script `lightning-rlhf`."""

import sys

from lightning_rlhf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
