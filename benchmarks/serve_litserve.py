"""LitServe with transformers' image-classification pipeline and batches of up to 8, for ``benchmarks.serve``.

python -m benchmarks.serve_litserve MODEL PORT
"""

import io
import sys
from typing import Any

import litserve
from PIL import Image

BATCH = 8


class Api(litserve.LitAPI):  # type: ignore[misc]
    """At the top of the module, because LitServe sends it to another process."""

    def setup(self, _: str) -> None:
        from transformers import pipeline

        self.pipeline = pipeline("image-classification", model=sys.argv[1], device="cpu")

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe interprets annotations
        return Image.open(io.BytesIO(request["content"].file.read())).convert("RGB")

    def predict(self, images: list[Any]) -> Any:
        return self.pipeline(images, top_k=5, batch_size=len(images))

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return {"top": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=BATCH, batch_timeout=0.0), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
