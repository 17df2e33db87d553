"""`python -m builder` is `vboot`."""

import sys

from builder.cli import main

sys.exit(main())
