"""The YAML file and the environment, read once and turned into immutable settings.

The only room that reads YAML or ``os.environ``. It logs nothing. A mistake comes back as a
:class:`ConfigError` that names the file, line and column; anything doubtful comes back in
:attr:`Settings.warnings`.
"""

from app.config.backends.backend_settings import BackendSettings
from app.config.backends.url import mask
from app.config.deployment import check_deployment, most_workers
from app.config.diagnostics import ConfigError, Diagnostic, first_of
from app.config.editor_schema import json_schema
from app.config.environment import Environment
from app.config.last_good import LAST_GOOD
from app.config.load import line_of, load
from app.config.options import OPTIONS, Option
from app.config.reload.differences import differences
from app.config.reload.watch import watch
from app.config.settings import RESTART_NEEDED, Settings

__all__ = [
    "LAST_GOOD",
    "OPTIONS",
    "RESTART_NEEDED",
    "BackendSettings",
    "ConfigError",
    "Diagnostic",
    "Environment",
    "Option",
    "Settings",
    "check_deployment",
    "differences",
    "first_of",
    "json_schema",
    "line_of",
    "load",
    "mask",
    "most_workers",
    "watch",
]
