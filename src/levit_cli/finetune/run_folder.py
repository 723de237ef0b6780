"""The run folder: the best model in Hugging Face's layout, and the run's own files.

``state.pt`` is what ``--resume`` needs, ``metrics.jsonl`` has one line per epoch, ``curves.png`` plots them,
``config.toml`` holds the settings and ``unreadable.tsv`` lists the excluded images. Each file is replaced atomically.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from levit_cli.errors import LevitError, OutputError, RefusedError, UsageError, reason_of
from levit_cli.finetune.settings import Settings, as_toml, given_options, read_toml
from levit_cli.finetune.split import Unreadable
from levit_cli.system.atomic import replace_bytes, replace_text
from levit_cli.system.extras import extra
from levit_cli.system.output import require_free
from levit_cli.system.progress import Log, silent

Metrics = dict[str, Any]  # of one epoch: a line of metrics.jsonl


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def state_file(self) -> Path:
        return self.path / "state.pt"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def unreadable_file(self) -> Path:
        return self.path / "unreadable.tsv"

    def create(self, settings: Settings, *, overwrite: bool) -> None:
        """Create the folder, or delete the files of an earlier run in it; then write ``config.toml``.

        Raises:
            UsageError: the folder is not empty and ``overwrite`` is false.
            OutputError: the folder cannot be written.
        """
        if self.path.exists():  # otherwise it is created together with its parents
            require_free(self.path, overwrite=overwrite, resume=False, folder=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (self.state_file, self.metrics_file, self.unreadable_file, self.path / "model.safetensors"):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot write to {self.path}", why=reason_of(error)) from error
        replace_text(self.settings_file, as_toml(settings))

    def read_settings(self, options: Mapping[str, Any]) -> Settings:
        """Return the settings of the run in this folder, which must agree with the options.

        Args:
            options: by field of ``Settings``; None for an option that was not given.

        Raises:
            UsageError: there is no run, or an option differs from its settings.
        """
        if not self.settings_file.is_file():
            raise UsageError(f"No run to resume in {self.path}", why="it has no config.toml")
        settings = Settings(**read_toml(self.settings_file))
        given = given_options(options)
        different = {name: value for name, value in given.items() if value != getattr(settings, name)}
        if different:
            raise UsageError(
                f"The run in {self.path} has other settings",
                why=", ".join(f"{name} is {getattr(settings, name)!r}, not {new!r}" for name, new in different.items()),
                hint="leave these options out, or start another run",
            )
        return settings

    def save_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        replace_bytes(self.state_file, buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """Return the saved state; None if the run was interrupted before its first save.

        Raises:
            RefusedError: the file is damaged.
        """
        if not self.state_file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged archive raises RuntimeError, EOFError, KeyError and more
            raise RefusedError(f"{self.state_file} is damaged", why=str(error)[:200]) from error
        return state

    def read_metrics(self, num_epochs: int) -> list[Metrics]:
        """Return the metrics of the first ``num_epochs`` epochs.

        A run that was killed between its writes may have left the line of a later epoch, which is trained again.

        Raises:
            RefusedError: the file is damaged.
        """
        with refuse_damaged(self.metrics_file):
            text = self.metrics_file.read_text(encoding="utf-8") if self.metrics_file.is_file() else ""
            history: list[Metrics] = [json.loads(line) for line in text.splitlines()]
            return [metrics for metrics in history if metrics["epoch"] <= num_epochs]

    def write_metrics(self, history: list[Metrics]) -> None:
        replace_text(self.metrics_file, "".join(json.dumps(metrics) + "\n" for metrics in history))
        if draw_curves := load_curves():
            replace_bytes(self.path / "curves.png", draw_curves(history, self.path.name))

    def write_unreadable(self, unreadable: tuple[Unreadable, ...]) -> None:
        lines = (f"{json.dumps(str(path))}\t{problem}\n" for path, problem in unreadable)
        replace_text(self.unreadable_file, "".join(lines))

    def read_unreadable(self) -> tuple[Unreadable, ...] | None:
        """Return the unreadable images listed by an earlier scan; None if there was no scan.

        Raises:
            RefusedError: the file is damaged.
        """
        if not self.unreadable_file.is_file():
            return None
        with refuse_damaged(self.unreadable_file):
            lines = self.unreadable_file.read_text(encoding="utf-8").splitlines()
            return tuple((Path(json.loads(path)), problem) for path, problem in (line.split("\t", 1) for line in lines))


def load_curves(log: Log = silent) -> Callable[[list[Metrics], str], bytes] | None:
    """Import the function that draws the curves; if it cannot be imported, log one line and return None."""
    try:
        with extra("plot", "curves.png"):
            from levit_cli.finetune.curves import draw_curves
    except LevitError as error:
        log(f"The learning curves will not be drawn · {error}")
        return None
    return draw_curves


@contextmanager
def refuse_damaged(path: Path) -> Iterator[None]:
    """Turn any error of reading or parsing a file of the run into a ``RefusedError`` that names the file."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = reason_of(error)
        raise RefusedError(f"Cannot read {path}", why=why, hint="--overwrite starts the run again") from error
