"""`python -m sa_flax.cli` is `sa-flax`."""

import sys

from sa_flax.cli import main

sys.exit(main())
