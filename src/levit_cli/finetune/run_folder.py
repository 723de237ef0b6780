"""What a run leaves: a model folder of Hugging Face's layout with the best weights, and the run's own files.

``state.pt`` is all that a broken-off run goes on from; ``metrics.jsonl`` has a line an epoch, ``curves.png`` shows
them, ``config.toml`` repeats the run, ``unreadable.tsv`` names what was left out. Each is the old one or the new one
at every moment.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from levit_cli.errors import OutputError, RefusedError, UsageError
from levit_cli.finetune.curves import draw_curves
from levit_cli.finetune.settings import Settings, as_toml, read_toml
from levit_cli.system.atomic import replace_bytes, replace_text
from levit_cli.system.output import require_free

Metrics = dict[str, Any]


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
    def bad_file(self) -> Path:
        return self.path / "unreadable.tsv"

    def begin(self, settings: Settings, *, overwrite: bool) -> None:
        """Make the folder, or empty it of an earlier run.

        Raises:
            UsageError: it holds something.
            OutputError: the disk does not take it.
        """
        if self.path.exists():  # else it is made, with the folders above it
            require_free(self.path, overwrite=overwrite, resume=False, folder=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (self.state_file, self.metrics_file, self.bad_file, self.path / "model.safetensors"):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot write to {self.path}", why=error.strerror or str(error)) from error
        replace_text(self.settings_file, as_toml(settings))

    def resume(self, given: Mapping[str, Any]) -> Settings:
        """The settings of the run that is here.

        Args:
            given: what the command line says, by field; None for what it does not.

        Raises:
            UsageError: there is no run, or it is another.
        """
        if not self.settings_file.is_file():
            raise UsageError(f"No run to resume in {self.path}", why="it has no config.toml")
        own = Settings(**read_toml(self.settings_file))
        asked = {name: value for name, value in given.items() if value is not None and value != getattr(own, name)}
        if asked:
            raise UsageError(
                f"The run in {self.path} has other settings",
                why=", ".join(f"{name} {getattr(own, name)!r}, not {value!r}" for name, value in asked.items()),
                hint="leave them away, or begin another run",
            )
        return own

    def save_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        replace_bytes(self.state_file, buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """The state to go on from; None where the run was broken off before its first.

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

    def read_metrics(self, before_epoch: int) -> list[Metrics]:
        """The lines of the epochs before this one; those behind it were written by what a kill undid.

        Raises:
            RefusedError: the file is damaged.
        """
        with reading(self.metrics_file):
            text = self.metrics_file.read_text(encoding="utf-8") if self.metrics_file.is_file() else ""
            rows: list[Metrics] = [json.loads(line) for line in text.splitlines()]
            return [row for row in rows if row["epoch"] <= before_epoch]

    def write_metrics(self, rows: list[Metrics]) -> None:
        replace_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))
        replace_bytes(self.path / "curves.png", draw_curves(rows, self.path.name))

    def write_bad(self, bad: tuple[tuple[Path, str], ...]) -> None:
        lines = (f"{json.dumps(str(path))}\t{problem}\n" for path, problem in bad)
        replace_text(self.bad_file, "".join(lines))

    def read_bad(self) -> tuple[tuple[Path, str], ...] | None:
        """What an earlier look at the images found; None if there was none.

        Raises:
            RefusedError: the file is damaged.
        """
        if not self.bad_file.is_file():
            return None
        with reading(self.bad_file):
            rows = (line.split("\t", 1) for line in self.bad_file.read_text(encoding="utf-8").splitlines())
            return tuple((Path(json.loads(path)), problem) for path, problem in rows)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file of the run becomes an error that names it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RefusedError(f"Cannot read {path}", why=why, hint="--overwrite begins the run anew") from error
