"""Peer: nginx with the nchan module, one worker, configured in a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/local/nginx/modules/ngx_nchan_module.so"),
)

_CONFIGURATION = """\
load_module {module};
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {slots}; }}
http {{
  access_log /dev/null;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  client_body_buffer_size 128k;
  nchan_shared_memory_size 512m;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location ~ ^/push/(.+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
    }}
    location ~ ^/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
      nchan_websocket_ping_interval 20;
    }}
  }}
}}
"""


def absence() -> str | None:
    """Return why it cannot be measured here; None when it can."""
    if shutil.which("nginx", path=_path()) is None:
        return "nginx is not installed"
    if not any(module.exists() for module in _MODULES):
        return "nginx has no nchan module (on Debian and Ubuntu: apt install libnginx-mod-nchan)"
    return None


def command(folder: Path, port: int, files: int) -> list[str]:
    """Write the configuration into ``folder`` and return what to run."""
    module = next(module for module in _MODULES if module.exists())
    user = "user root;" if os.geteuid() == 0 else ""
    # When few slots are left, nginx closes what it takes for idle: it gets more than it may have files.
    text = _CONFIGURATION.format(module=module, user=user, folder=folder, port=port, files=files, slots=2 * files)
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return [shutil.which("nginx", path=_path()) or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(path)]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
