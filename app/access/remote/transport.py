"""One exchange over HTTP/1.1 with another server, by httpx. Its timeout is that of :class:`.outbound.Outbound`."""

from __future__ import annotations

import asyncio
import ssl

import certifi
import httpx

from app.access.remote.outbound import MOST_BYTES, FailedError, Headers, Reply

_OURS = ((b"accept", b"application/json"), (b"accept-encoding", b"identity"), (b"user-agent", b"abide"))
_LIMITS = httpx.Limits(
    max_connections=None,  # whoever asks counts its requests
    max_keepalive_connections=20,
    keepalive_expiry=1.0,  # shorter than servers keep idle ones: else they would close one as it is used again
)


class Transport:
    """Connections to other servers.

    It is httpx's transport without httpx's client, which follows redirects, reads the environment, decompresses
    whatever comes, and sends the cookies that it got for one caller with the requests of the next.
    """

    def __init__(self) -> None:
        self._connections = httpx.AsyncHTTPTransport(verify=_trust(), trust_env=False, limits=_LIMITS)

    async def exchange(self, method: str, url: str, headers: Headers, content: bytes | None) -> Reply:
        """Send one request; return the answer, whatever its status. Raises :class:`FailedError`."""
        given = [(name.lower(), value) for name, value in headers]
        names = {name for name, _ in given}
        ours = [header for header in _OURS if header[0] not in names]
        try:
            request = httpx.Request(method, url, headers=[*ours, *given], content=content)
            response = await self._connections.handle_async_request(request)
            try:
                return Reply(response.status_code, await _body(response))
            finally:
                await response.aclose()
        except httpx.ConnectError as error:
            msg = f"it cannot be reached: {error}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, ValueError) as error:
            # The error's text may quote a header.
            msg = f"the connection to it failed ({type(error).__name__})"
        raise FailedError(msg)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()


def _trust() -> ssl.SSLContext:
    """Trust what the system trusts, or ``SSL_CERT_FILE``: the authority may be a private one."""
    paths = ssl.get_default_verify_paths()
    return ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())


async def _body(response: httpx.Response) -> bytes | None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        msg = "its answer is compressed, which it was asked not to be"
        raise FailedError(msg)
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            return None
        await asyncio.sleep(0)  # one read may have thousands of parts
    return bytes(body)
