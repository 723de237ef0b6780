"""The routes that take no image: the page, the description of the routes, health and metrics."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from levit_cli import __version__
from levit_cli.serve.messages import HTML, TEXT, HttpError, Request, Response, json_response
from levit_cli.serve.metrics import CONTENT_TYPE, Metrics
from levit_cli.serve.service import Service
from levit_cli.serve.settings import Limits

ASSETS = files("levit_cli") / "assets" / "serve"


class PageRoutes:
    """The handlers of these routes.

    Args:
        gauges: the current values of the metrics that are not counted, with their help.
        is_stopping: whether the server is about to stop.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        limits: Limits,
        root_path: str,
        gauges: Callable[[], dict[str, tuple[str, float]]],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._service, self._metrics, self._limits, self._root_path = service, metrics, limits, root_path
        self._gauges, self._is_stopping = gauges, is_stopping

    async def page(self, _: Request) -> Response:
        """The page to try the model."""
        return page(HTTPStatus.OK)

    async def locked_page(self, _: Request) -> Response:
        """The page for a browser that has not sent the token; it asks for it."""
        return page(HTTPStatus.UNAUTHORIZED)

    async def info(self, _: Request) -> Response:
        """What the page shows of the model, and the limits."""
        model = self._service.require_ready()
        labels = model.checkpoint.labels
        return json_response(
            {
                "model": model.name,
                "architecture": model.checkpoint.architecture,
                "classes": len(labels),
                "max_body": self._limits.max_body,
                "version": __version__,
            }
        )

    async def live(self, _: Request) -> Response:
        """The process lives."""
        return Response(HTTPStatus.OK, b"ok\n", TEXT)

    async def ready(self, _: Request) -> Response:
        """The model is warm, and the server is not stopping."""
        if self._is_stopping():
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
        self._service.require_ready()
        return Response(HTTPStatus.OK, b"ready\n", TEXT)

    async def metrics(self, _: Request) -> Response:
        """The metrics in Prometheus' text format."""
        model = self._service.model
        info = {"version": __version__} | ({"model": model.name, "precision": model.spec.precision} if model else {})
        return Response(HTTPStatus.OK, self._metrics.text(self._gauges(), info).encode(), CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        """The description of the routes."""
        return json_response(openapi_document(self._root_path))


def openapi_document(root_path: str) -> dict[str, Any]:
    """Return the OpenAPI document, with the version and the prefix of this server."""
    document: dict[str, Any] = json.loads(_asset("openapi.json"))
    document["info"]["version"] = __version__
    document["servers"] = [{"url": root_path or "/"}]
    return document


def page(status: HTTPStatus) -> Response:
    """Return the page, with a policy that admits its own script and style only."""
    html, script, style = _page()
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "no-referrer"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), microphone=(), geolocation=()"),
        *((("WWW-Authenticate", 'Bearer realm="levit"'),) if status == HTTPStatus.UNAUTHORIZED else ()),
    )
    return Response(status, html, HTML, headers)


@cache
def _page() -> tuple[bytes, str, str]:
    """Return the page with its script and style inside, and the hashes of both for the policy."""
    script, style = _asset("page.js"), _asset("page.css")
    html = _asset("page.html").replace("/* page.css */", style).replace("/* page.js */", script)
    (inner_style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    (inner_script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    return html.encode(), _hash_of(inner_script), _hash_of(inner_style)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
