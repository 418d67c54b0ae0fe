"""``bin/abide`` runs this: the commands of :mod:`app.cli`."""

import sys

from app.cli import main

sys.exit(main())
