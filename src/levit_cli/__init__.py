"""levit: classify images quickly with LeViT, from the command line and from Python (``load``).

Importing the package imports nothing else. The names of the Python API are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levit_cli.api import Classifier, ImageInput, Prediction, Ranked, load
    from levit_cli.errors import InputError, LevitError, OutputError, RefusedError, UnreachableError, UsageError

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "ImageInput",
    "InputError",
    "LevitError",
    "OutputError",
    "Prediction",
    "Ranked",
    "RefusedError",
    "UnreachableError",
    "UsageError",
    "__version__",
    "load",
]

if not TYPE_CHECKING:  # for a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "errors" if name.endswith("Error") else "api"
        return getattr(import_module(f"{__name__}.{module}"), name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
