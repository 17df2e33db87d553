"""`python -m builder` is `vboot`."""

import sys

from cli import main

sys.exit(main())
