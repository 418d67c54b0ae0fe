"""The routes of all channels: Starlette routes that one look-up finds.

Starlette's router tries its routes one after the other, and compiles a pattern for each. Here the registry finds the
channel of a path at once, and a route is made when it is first used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Scope

from app.core.channel import Channel, Registry
from app.web.publish.push_head import ENVELOPED, NAMED
from app.web.subscribe.reads import HISTORY
from app.web.subscribe.socket_head import ECHO, MANY

_READ = frozenset({"GET", "HEAD"})
_PUBLISH = frozenset({"POST"})


class Kind(NamedTuple):
    """One of the ways in which every channel is served."""

    name: str
    before: str
    """The part of the path before the channel's name."""
    after: str
    methods: frozenset[str] | None
    """None for a WebSocket."""


PUSH = Kind("push", NAMED, "", _PUBLISH)
SOCKET = Kind("websocket", "/", "", None)
EVENTS = Kind("events", "/", "", _READ)
READ = Kind("history", "/", HISTORY, _READ)
KINDS = (PUSH, SOCKET, EVENTS, READ)


class _Compiled:
    """A route whose pattern is compiled when it is first read: serving a request needs no pattern."""

    path: str

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 — an attribute's
        if name not in {"path_regex", "param_convertors"}:
            raise AttributeError(name)
        self.path_regex, _, self.param_convertors = compile_path(self.path)
        return self.__dict__[name]


class ChannelRoute(_Compiled, Route):
    """A channel's route for requests."""

    def __init__(self, owner: ChannelRoutes, kind: Kind, path: str, name: str, app: ASGIApp) -> None:
        # Not Route's own, which compiles the pattern.
        self.path = self.path_format = path
        self.name = name
        self.endpoint = self.app = app
        self.methods = set(kind.methods or ())
        self.include_in_schema = False  # app/web/documents describes the channels
        self.kind = kind
        self.owner = owner

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the requests for which the look-up finds this route."""
        return self.owner.match(self, scope)


class ChannelSocketRoute(_Compiled, WebSocketRoute):
    """A channel's route for WebSockets."""

    def __init__(self, owner: ChannelRoutes, path: str, name: str, app: ASGIApp) -> None:
        self.path = self.path_format = path
        self.name = name
        self.endpoint = self.app = app
        self.kind = SOCKET
        self.owner = owner

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the requests for which the look-up finds this route."""
        return self.owner.match(self, scope)


AnyRoute = ChannelRoute | ChannelSocketRoute


class ChannelRoutes:
    """The routes of the channels of one channels.yaml, and the routes that serve any number of channels."""

    def __init__(self, registry: Registry, push: ASGIApp, sockets: ASGIApp, reads: ASGIApp) -> None:
        self._registry = registry
        self._apps: Mapping[Kind, ASGIApp] = {PUSH: push, SOCKET: sockets, EVENTS: reads, READ: reads}
        self._made: dict[Kind, dict[str, AnyRoute]] = {kind: {} for kind in KINDS}
        self._pushes = {ENVELOPED: ChannelRoute(self, PUSH, ENVELOPED, "push", push)}
        self._sockets = {path: ChannelSocketRoute(self, path, path[1:], sockets) for path in (MANY, ECHO)}

    def __iter__(self) -> Iterator[BaseRoute]:
        """Iterate over all routes, in the order of the file."""
        yield from self._pushes.values()
        yield from self._sockets.values()
        for channel in self._registry.channels:
            for kind in KINDS:
                yield self._route(kind, channel)

    def find(self, scope: Scope) -> AnyRoute | None:
        """Return the route of a request's path, for any method; None if no channel has the path."""
        path = get_route_path(scope)
        if scope["type"] == "websocket":
            if path in self._sockets:
                return self._sockets[path]
            kind, name = SOCKET, path[1:]
        elif path.startswith(NAMED):
            kind, name = PUSH, path[len(NAMED) :]
        elif path.endswith(HISTORY):
            kind, name = READ, path[1 : -len(HISTORY)]
        elif path in self._pushes:
            return self._pushes[path]
        else:
            kind, name = EVENTS, path[1:]
        channel = self._registry.get(name)
        return None if channel is None else self._route(kind, channel)

    def match(self, route: AnyRoute, scope: Scope) -> tuple[Match, Scope]:
        """Say how a request matches a route, as :meth:`starlette.routing.BaseRoute.matches` does."""
        if scope["type"] not in {"http", "websocket"} or self.find(scope) is not route:
            return Match.NONE, {}
        params = {**scope.get("path_params", {}), **self._params(route, scope)}
        child: Scope = {"endpoint": route.endpoint, "path_params": params, "route": route}
        return (Match.FULL if takes(route, scope) else Match.PARTIAL), child

    def url_path_for(self, name: str, /, **params: Any) -> URLPath:  # noqa: ANN401 — Starlette's own
        """Return the path of the route of this name; raise :class:`~starlette.routing.NoMatchFound`."""
        kind_name, _, channel_name = name.partition(":")
        kind = next((kind for kind in KINDS if kind.name == kind_name), None)
        if kind is not None and channel_name in self._declared:
            return self._route(kind, self._declared[channel_name]).url_path_for(name, **params)
        common: list[AnyRoute] = [*self._pushes.values(), *self._sockets.values()]
        for route in common:
            if route.name == name:
                return route.url_path_for(name, **params)
        raise NoMatchFound(name, params)

    @cached_property
    def _declared(self) -> dict[str, Channel]:
        return {channel.name: channel for channel in self._registry.channels}

    def _route(self, kind: Kind, channel: Channel) -> AnyRoute:
        made = self._made[kind]
        return made.get(channel.name) or made.setdefault(channel.name, self._make(kind, channel))

    def _make(self, kind: Kind, channel: Channel) -> AnyRoute:
        path, name = f"{kind.before}{channel.name}{kind.after}", f"{kind.name}:{channel.name}"
        if kind.methods is None:
            return ChannelSocketRoute(self, path, name, self._apps[kind])
        return ChannelRoute(self, kind, path, name, self._apps[kind])

    def _params(self, route: AnyRoute, scope: Scope) -> dict[str, str]:
        """Return the value of a family's parameter, by its name."""
        before, brace, rest = route.path.partition("{")
        if not brace:
            return {}
        parameter, _, after = rest.partition("}")
        path = get_route_path(scope)
        return {parameter: path[len(before) : len(path) - len(after)]}


def takes(route: AnyRoute, scope: Scope) -> bool:
    """Whether a route takes a request's method; a WebSocket has none."""
    return route.kind.methods is None or scope["method"] in route.kind.methods
