"""FastAPI with transformers' image-classification pipeline in its thread pool, for ``benchmarks.serve``.

python -m benchmarks.serve_fastapi MODEL PORT
"""

import io
import sys
from typing import Any

import fastapi
import uvicorn
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from transformers import pipeline


def main() -> None:
    classify: Any = pipeline("image-classification", model=sys.argv[1], device="cpu")
    app = fastapi.FastAPI()

    def answer(content: bytes) -> Any:
        return classify(Image.open(io.BytesIO(content)).convert("RGB"), top_k=5)

    @app.post("/predict")  # type: ignore[untyped-decorator]
    async def predict(request: fastapi.Request) -> Any:
        return {"top": await run_in_threadpool(answer, await request.body())}

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
