"""What the server says about itself: log lines and metrics. A leaf that knows nothing of the other rooms.

``prometheus_client`` decides when it is imported whether it works for several processes, so
``metrics`` and ``exporter`` are imported by who needs them, when :data:`metrics.DIRECTORY` is set.
"""

from app.telemetry.logs import MASK, GunicornLogger, configure_logging, mask_secrets

__all__ = ["MASK", "GunicornLogger", "configure_logging", "mask_secrets"]
