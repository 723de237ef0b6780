"""Make Pillow's decoders crash or hang on chosen images.

A ``sitecustomize.py``, which Python imports at its start, wraps Pillow's ``load``. The size of the image selects the
fault.
"""

from pathlib import Path

from tests.support.sample_images import sample_image

SIZES = {"abort": (83, 59), "hang": (89, 53)}
SITECUSTOMIZE = """
import os
from PIL import ImageFile

load = ImageFile.ImageFile.load

def faulty(self):
    if self.size == (83, 59):
        os.abort()
    while self.size == (89, 53):
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
    width, height = SIZES[fault]
    sample_image(width, height).save(path, "JPEG")
