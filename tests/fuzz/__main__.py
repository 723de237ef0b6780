"""``python -m tests.fuzz image|model CORPUS [libFuzzer's options]``: bytes that nobody thought of, by atheris.

CORPUS is a folder for what is found to be new; sound files begin it. atheris is in the extra ``fuzz``, for Linux.
Bytes that break what ``targets`` promises are left as ``crash-…`` in the current folder; they belong into ``finds``,
which the suite tries.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["levit_cli", "PIL", "safetensors"]):
    from tests.fuzz import targets
    from tests.fuzz.seeds import image_seeds, model_seeds, spoilable_model

LONGEST = {"image": 1 << 15, "model": 1 << 17}


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    folder = Path(mkdtemp(prefix="levit-fuzz-"))
    model = spoilable_model(folder)
    target, seeds = (targets.image, image_seeds()) if name == "image" else (model, model_seeds(model, folder))
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        target(content)  # whatever is imported late is, before it is forbidden
        (Path(corpus) / f"seed {number}").write_bytes(content)
    targets.forbid_what_no_data_file_may_do()
    atheris.Setup([sys.argv[0], corpus, f"-max_len={LONGEST[name]}", "-timeout=60", *options], target)
    atheris.Fuzz()


main()
