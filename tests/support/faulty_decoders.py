"""Make Pillow's decoders crash or hang on chosen images.

A ``sitecustomize.py``, which Python imports at its start, wraps Pillow's ``load``. A marker in the image's comment
selects the fault.
"""

from pathlib import Path

from tests.support.sample_images import sample_image

SITECUSTOMIZE = """
import os
from PIL import ImageFile

load = ImageFile.ImageFile.load

def faulty(self):
    file = getattr(self, "fp", None)
    if file is not None:
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
        if b"levit-test-abort" in content:
            os.abort()
        while b"levit-test-hang" in content:
            pass
    return load(self)

ImageFile.ImageFile.load = faulty
"""


def faulty_decoders(folder: Path) -> dict[str, str]:
    """Write the wrapper into a new folder and return the environment variables that load it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": str(folder)}


def ask_for(fault: str, path: Path) -> None:
    """Write an image on which decoding aborts or hangs."""
    sample_image().save(path, "JPEG", comment=f"levit-test-{fault}".encode())
