"""``python -m gradsift``."""

import sys

from gradsift.cli import main

sys.exit(main())
