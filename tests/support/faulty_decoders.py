"""Decoders that crash or hang on request: Pillow's, wrapped by a ``sitecustomize.py`` that Python imports by itself.

An image asks for it by a word in it. Nothing in the product knows of this.
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
        place = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(place)
        if b"levit-test-abort" in content:
            os.abort()
        while b"levit-test-hang" in content:
            pass
    return load(self)

ImageFile.ImageFile.load = faulty
"""


def faulty_decoders(folder: Path) -> dict[str, str]:
    """The variables of an environment in which they are."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": str(folder)}


def ask_for(fault: str, path: Path) -> None:
    """Make ``path`` an image on which decoding ends in ``abort`` or ``hang``."""
    sample_image().save(path, "JPEG", comment=f"levit-test-{fault}".encode())
