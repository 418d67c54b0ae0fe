"""What the server says about itself: log lines, metrics and spans. Imports none of the other rooms.

``prometheus_client`` decides at import whether it works for several processes. So import ``metrics`` and
``exporter`` only once the variable :data:`directory.DIRECTORY` is set.
"""

from app.telemetry.logs import GunicornLogger, announce, announce_warnings, configure_logging
from app.telemetry.masking import MASK, mask_secrets

__all__ = ["MASK", "GunicornLogger", "announce", "announce_warnings", "configure_logging", "mask_secrets"]
