"""Check who asks, find the route, and note what was answered."""

import hmac
import ipaddress
import json
import re
import time
from dataclasses import dataclass
from http import HTTPStatus

from levit_cli.serve.connection import Handler, too_large
from levit_cli.serve.messages import HttpError, Request, Response
from levit_cli.serve.metrics import Metrics
from levit_cli.serve.service import Service
from levit_cli.serve.settings import Access, Limits
from levit_cli.system.progress import Log

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
REALM = 'Bearer realm="levit"'
UNKNOWN = "other"  # the route in metrics and the log of requests that match none


@dataclass(frozen=True)
class Route:
    """A path and what answers it.

    Args:
        pattern: a regular expression of the whole path.
        name: the path in metrics.
        methods: what the path can be asked with.
        is_open: no token is required.
        locked: what answers requests without the token, instead of an error.
        takes_images: the request needs a place in the queue.
    """

    pattern: str
    name: str
    methods: tuple[str, ...]
    handler: Handler
    is_open: bool = False
    locked: Handler | None = None
    takes_images: bool = False


class Application:
    """The routes, their access rules, and the log.

    Args:
        root_path: a prefix that requests may carry.
        access_log: receives one line of JSON per request; None for no log.
        log: receives bugs.
    """

    def __init__(
        self,
        routes: tuple[Route, ...],
        service: Service,
        metrics: Metrics,
        *,
        access: Access,
        limits: Limits,
        root_path: str,
        access_log: Log | None,
        log: Log,
    ) -> None:
        self._routes, self._service, self._metrics = routes, service, metrics
        self._access, self._limits, self._root_path = access, limits, root_path
        self._access_log, self._log = access_log, log

    def admit(self, request: Request) -> Handler:
        """Return the handler of a request; see ``connection.App``."""
        self._require_known_host(request)
        route = self._route(self._local_path(request))
        if not (route is not None and route.is_open) and not self._has_token(request):
            if route is not None and route.locked is not None and request.method in route.methods:
                return route.locked
            raise HttpError(HTTPStatus.UNAUTHORIZED, "a bearer token is required", (("WWW-Authenticate", REALM),))
        if route is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "there is nothing at this path; GET /openapi.json lists the routes")
        if request.method not in route.methods:
            allowed = (("Allow", ", ".join(route.methods)),)
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "this path has no such method", allowed)
        self._require_small_plain_body(request)
        if route.takes_images:
            self._service.require_room()
        return route.handler

    def answered(self, request: Request, response: Response, seconds: float) -> None:
        """Count an answer, and log it."""
        route = self._name_of_route(request)
        self._metrics.requests.add(route=route, code=str(int(response.status)))
        self._metrics.seconds.observe(seconds)
        if self._access_log is not None:
            self._access_log(_log_line(request, response, seconds))

    def failed(self, error: Exception) -> None:
        self._log(f"Error: {type(error).__name__}: {error} · This is a bug in levit; the request was answered with 500")

    def dropped(self, reason: str) -> None:
        if reason == "client left":
            self._metrics.aborted.add()
        else:
            self._metrics.dropped.add(reason=reason)

    def _local_path(self, request: Request) -> str:
        """Return the path without the prefix of a reverse proxy, which may have removed it already."""
        path = request.path
        prefix = self._root_path
        return path[len(prefix) :] or "/" if prefix and (path == prefix or path.startswith(f"{prefix}/")) else path

    def _route(self, path: str) -> Route | None:
        return next((route for route in self._routes if re.fullmatch(route.pattern, path)), None)

    def _name_of_route(self, request: Request) -> str:
        try:
            route = self._route(self._local_path(request))
        except HttpError:
            return UNKNOWN
        return route.name if route else UNKNOWN

    def _require_known_host(self, request: Request) -> None:
        """Refuse names of other sites, which a web page could let resolve to this machine (DNS rebinding)."""
        if request.is_local_socket:
            return
        host = request.headers.get("host", "")
        match = HOST.fullmatch(host)
        if "host" in request.repeated or (match is None and (host or request.version == "1.1")):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the Host header is missing or malformed")
        name = match[1].lower().rstrip(".") if match else "localhost"
        if name != "localhost" and name not in self._access.allowed_hosts and not _is_address(name):
            raise HttpError(HTTPStatus.FORBIDDEN, "this host name is not served; --allowed-host admits further names")

    def _has_token(self, request: Request) -> bool:
        token = self._access.token
        if token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())  # takes the same time always
        return is_right and scheme.lower() == "bearer"

    def _require_small_plain_body(self, request: Request) -> None:
        length = request.content_length
        if length is not None and length > self._limits.max_body:
            raise too_large(self._limits.max_body)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not supported")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _log_line(request: Request, response: Response, seconds: float) -> str:
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": request.client,
        "method": request.method,
        "target": request.target,
        "status": int(response.status),
        "bytes": len(response.body),
        "ms": round(1000 * seconds, 1),
    }
    return json.dumps(fields)
