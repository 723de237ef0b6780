"""Fuzz the image decoder or the model loader with atheris: ``python -m tests.fuzz image|model CORPUS [OPTIONS]``.

CORPUS is a folder for inputs that reach new code; it starts with valid files. OPTIONS are those of libFuzzer. atheris
is in the extra ``fuzz``, for Linux only. An input that violates a guarantee of ``targets`` is saved as ``crash-…`` in
the current folder. Move it to ``finds``, named ``image …`` or ``model …``, and the test suite will include it.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["levit_cli", "PIL", "safetensors"]):
    from tests.fuzz import targets
    from tests.fuzz.seeds import image_seeds, model_seeds, model_target

MAX_BYTES = {"image": 1 << 15, "model": 1 << 17}


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    folder = Path(mkdtemp(prefix="levit-fuzz-"))
    model = model_target(folder)
    target, seeds = (targets.image, image_seeds()) if name == "image" else (model, model_seeds(model, folder))
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        target(content)  # triggers all late imports before they are forbidden
        (Path(corpus) / f"seed {number}").write_bytes(content)
    targets.forbid_side_effects()
    atheris.Setup([sys.argv[0], corpus, f"-max_len={MAX_BYTES[name]}", "-timeout=60", *options], target)
    atheris.Fuzz()


main()
