"""The YAML file and the environment, read once and turned into immutable settings.

The only room that reads YAML or ``os.environ``. It logs nothing: what is wrong comes back as a
:class:`ConfigError` that names file, line and column, and what is doubtful as
:attr:`Settings.warnings`.
"""

from app.config.backend import mask
from app.config.changes import watch
from app.config.deployment import check_deployment, most_workers
from app.config.differences import differences
from app.config.environment import Environment
from app.config.kept import KEPT
from app.config.load import load
from app.config.model import json_schema
from app.config.options import OPTIONS, Option
from app.config.problems import ConfigError, Problem, first_of
from app.config.settings import RESTART_NEEDED, Settings

__all__ = [
    "KEPT",
    "OPTIONS",
    "RESTART_NEEDED",
    "ConfigError",
    "Environment",
    "Option",
    "Problem",
    "Settings",
    "check_deployment",
    "differences",
    "first_of",
    "json_schema",
    "load",
    "mask",
    "most_workers",
    "watch",
]
