"""Check a request before any work: options, images and output. Nothing is written, and scikit-learn is not imported."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from levit_cli.choices import ClassWeights, Decoding, Resizer
from levit_cli.data.image_folder import require_local
from levit_cli.engines import EngineSpec
from levit_cli.errors import UsageError
from levit_cli.finetune.faults import Faults
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import DEFAULTS, faults_of, given_options, refuse_faults
from levit_cli.finetune.split import Split, find_images
from levit_cli.predict.model import ModelOptions, conflicts
from levit_cli.probe.feature_cache import file_in


@dataclass(frozen=True)
class ProbeRequest:
    """The options of ``levit probe``; its help describes them.

    Args:
        val_split, max_unreadable: None for the defaults of ``levit finetune``.
    """

    data: Path
    output: Path
    model: ModelOptions
    spec: EngineSpec
    class_weights: ClassWeights = "none"
    val_split: float | None = None
    max_unreadable: str | None = None
    seed: int = 0
    cache: Path | None = None
    decoding: Decoding = "exact"
    resizer: Resizer = "auto"
    workers: int = 0
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Plan:
    """A run that can start, as far as can be known without the model.

    Args:
        split: the images; unreadable ones are not excluded yet.
        val_split: the fraction of each class to measure on, if there is no folder of validation images.
        max_unreadable: the largest accepted fraction of unreadable images.
    """

    request: ProbeRequest
    split: Split
    val_split: float
    max_unreadable: float


def make_plan(request: ProbeRequest) -> Plan:
    """Check a request.

    Raises:
        UsageError: it cannot be executed. The message names all faults.
        OutputError: the run folder or the cache cannot be written.
    """
    require_local(request.data)
    root, faults = request.data.resolve(), Faults()
    with faults.collect():
        refuse_faults(faults_of(_given(request)))
    values = DEFAULTS if faults.errors else {**DEFAULTS, **_given(request)}
    split = None
    with faults.collect():
        split = find_images(root, values["val_split"], values["seed"], request.output)
        if split.has_val_folder and request.val_split is not None:
            raise UsageError("--val-split has no effect", why=f"{root} has a folder of validation images")
    for error in _conflicts(request):
        faults.add(error)
    with faults.collect():
        _require_output(request, root)
    faults.refuse()
    assert split is not None
    return Plan(request, split, values["val_split"], values["max_unreadable"])


def _given(request: ProbeRequest) -> dict[str, object]:
    """Return the given options that are settings of ``levit finetune`` too."""
    names = ("val_split", "max_unreadable", "seed")
    return given_options({name: getattr(request, name) for name in names})


def _conflicts(request: ProbeRequest) -> Iterator[UsageError]:
    """Yield the faults of options that have no effect, or that cannot be used together or here."""
    if request.spec.precision == "int8":
        why = "the head is fitted to the features of the original weights, which the run folder gets"
        hint = "leave it out, and run levit quantize on the result"
        yield UsageError("--precision int8 cannot be used with levit probe", why=why, hint=hint)
    if request.model.preprocessing == "hf-tensor":
        why = "it resizes images with torch"
        yield UsageError("levit probe has no preprocessing hf-tensor", why=why, hint="use --preprocessing hf")
    else:
        yield from conflicts(request.model, request.spec, request.resizer)


def _require_output(request: ProbeRequest, root: Path) -> None:
    """Check that the run folder can be created, and that the cache is neither in it nor among the images."""
    output, cache = request.output, request.cache
    if os.path.lexists(output) and output.resolve() != root:
        raise UsageError(f"The output {output} exists", why="it was not touched", hint="choose another name with -o")
    RunFolder(output).require_free(root, overwrite=False)
    if cache is None:
        return
    file = file_in(cache, "").resolve()
    if file.is_relative_to(output.resolve()):
        raise UsageError(f"The cache {cache} lies in the run folder", hint="choose another place with --cache")
    if file.is_relative_to(root):
        raise UsageError(f"The cache {cache} lies among the images", hint="choose another place with --cache")
