"""Peer: nginx with the nchan module, one worker, configured in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support import nginx

_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/local/nginx/modules/ngx_nchan_module.so"),
)

_HTTP = """\
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
      nchan_subscriber websocket eventsource;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
      nchan_websocket_ping_interval 20;
    }}
  }}"""


def absence() -> str | None:
    """Return why it cannot be measured here; None when it can."""
    if nginx.find() is None:
        return "nginx is not installed"
    if not any(module.exists() for module in _MODULES):
        return "nginx has no nchan module (on Debian and Ubuntu: apt install libnginx-mod-nchan)"
    return None


def command(folder: Path, port: int, files: int) -> list[str]:
    """Write the configuration into ``folder`` and return what to run."""
    module = next(module for module in _MODULES if module.exists())
    return nginx.command(folder, _HTTP.format(port=port), preamble=f"load_module {module};", files=files)
