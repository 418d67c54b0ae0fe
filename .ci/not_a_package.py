"""What `pip install .` meets: the server is no package, so all that it can do is to say what to run instead."""

import sys

sys.exit(
    "Abide's server is not installed: it runs from its checkout. Run `make setup` once, then `bin/abide serve`. "
    "To install the Python client, run `pip install ./clients/python`."
)
