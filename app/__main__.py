"""``bin/abide`` runs this: the commands of :mod:`app.cli`."""

import signal
import sys


def _end(*_: object) -> None:
    sys.exit(0 if _serves else 130)  # as shells do; a server that is stopped has not failed


_serves = sys.argv[1:2] == ["serve"]
_before = signal.getsignal(signal.SIGINT)
if _before is signal.default_int_handler:  # not where Ctrl-C is ignored
    signal.signal(signal.SIGINT, _end)  # imports take a moment, and gunicorn does until it handles signals

try:
    from app.cli import main
except ModuleNotFoundError as error:  # a set-up that was interrupted
    sys.exit(f"abide: the package {error.name!r} is not in {sys.prefix}: run 'make setup' in the checkout")

if not _serves:
    signal.signal(signal.SIGINT, _before)
sys.exit(main())
