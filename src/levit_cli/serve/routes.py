"""All routes of the server. ``openapi.json`` in the assets describes them."""

import re

from levit_cli.serve.app import Route
from levit_cli.serve.images import ImageRoutes
from levit_cli.serve.inference_protocol import InferenceRoutes
from levit_cli.serve.pages import PageRoutes

POST, GET = ("POST", "PUT"), ("GET", "HEAD")  # curl -T sends PUT


def all_routes(images: ImageRoutes, inference: InferenceRoutes, pages: PageRoutes) -> tuple[Route, ...]:
    """Return the routes, which are tried in this order."""
    model = f"/v2/models/{re.escape(inference.name)}(/versions/1)?"
    return (
        Route("/", "/", GET, pages.page, locked=pages.locked_page),
        Route("/predict(/[^/]*)?", "/predict", POST, images.predict, takes_images=True),
        Route("/embed(/[^/]*)?", "/embed", POST, images.embed, takes_images=True),
        Route("/healthz", "/healthz", GET, pages.live, is_open=True),
        Route("/readyz", "/readyz", GET, pages.ready, is_open=True),
        Route("/metrics", "/metrics", GET, pages.metrics),
        Route("/info", "/info", GET, pages.info),
        Route("/openapi.json", "/openapi.json", GET, pages.openapi),
        Route("/v2/?", "/v2", GET, inference.server),
        Route("/v2/health/live", "/v2/health/live", GET, inference.live),
        Route("/v2/health/ready", "/v2/health/ready", GET, inference.ready),
        Route(model, "/v2/models/{name}", GET, inference.model),
        Route(f"{model}/ready", "/v2/models/{name}/ready", GET, inference.model_ready),
        Route(f"{model}/infer", "/v2/models/{name}/infer", ("POST",), inference.infer, takes_images=True),
    )
