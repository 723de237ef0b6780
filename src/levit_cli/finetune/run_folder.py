"""The run folder: the best model in Hugging Face's layout, and the run's own files.

``state.pt`` is what ``--resume`` needs, ``metrics.jsonl`` has one line per epoch, ``curves.png`` plots them,
``config.toml`` holds the settings, ``images.jsonl`` lists the images of the run and ``unreadable.tsv`` the excluded
ones, ``teacher/`` is a copy of the teacher, ``tensorboard/`` has the events of ``--log tensorboard``. Each file is
replaced atomically. The folder is locked while a process works in it.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from levit_cli.choices import BestMetric
from levit_cli.data.image_folder import holds_images
from levit_cli.errors import LevitError, OutputError, RefusedError, UsageError, reason_of
from levit_cli.finetune.images_file import StoredImage, as_lines, from_lines, key_of
from levit_cli.finetune.metrics import Metrics
from levit_cli.finetune.settings import Settings, as_toml, given_options, read_toml, same_setting
from levit_cli.finetune.split import Split
from levit_cli.system.atomic import replace_bytes, replace_text, writing
from levit_cli.system.extras import extra
from levit_cli.system.locking import IN_USE
from levit_cli.system.output import OutputFile, require_free
from levit_cli.system.progress import Log, silent
from levit_cli.system.signals import deferred_signals
from levit_cli.system.text import printable


@dataclass
class RunLock:
    """A lock on a run folder. The system releases it when the process ends."""

    folder: Path
    _file: OutputFile | None = None

    @property
    def file(self) -> Path:
        return self.folder / ".lock"

    def acquire(self) -> None:
        """Lock the folder, if this process has not locked it yet.

        Raises:
            OutputError: another process has locked it, or it cannot be written.
        """
        if self._file:
            return
        try:
            self._file = OutputFile(self.file, may_exist=True)
        except OutputError as error:
            if error.why != IN_USE:
                raise
            what = f"Cannot write to {self.folder}"
            raise OutputError(
                what, why="another process works in this run folder", hint="wait until it ends"
            ) from error
        if hasattr(os, "register_at_fork"):  # data-loader workers would keep the lock after the process was killed
            os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        if self._file:
            with suppress(OSError):  # Windows does not remove an open file
                self._file.path.unlink()
            with self._file:
                self._file = None

    def _close(self) -> None:
        if self._file:
            with suppress(OSError):
                os.close(self._file.descriptor)
            self._file = None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path
    lock: RunLock = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lock", RunLock(self.path))

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

    @property
    def images_file(self) -> Path:
        return self.path / "images.jsonl"

    def require_free(self, data: Path, *, overwrite: bool) -> None:
        """Check that the folder can be created, or that its files may be replaced. Nothing is written.

        Raises:
            UsageError: it is the image folder or a folder of images in it, or not empty and ``overwrite`` is false.
            OutputError: it cannot be written.
        """
        if self.path.resolve() == data.resolve():
            what = f"The run folder {self.path} is also the image folder"
            raise UsageError(what, hint="choose another folder with -o")
        if self.path.resolve().is_relative_to(data.resolve()) and holds_images(self.path):
            what = f"The run folder {self.path} is a folder of images"
            why = "its images would be left out of the data set"
            raise UsageError(what, why=why, hint="choose another folder with -o")
        if self.path.exists():
            require_free(self.path, overwrite=overwrite, resume=False, folder=True)
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            why = f"{parent} is not {'writable' if parent.is_dir() else 'a folder'}"
            raise OutputError(f"Cannot write to {self.path}", why=why, hint="choose another folder with -o")

    @property
    def teacher_folder(self) -> Path:
        return self.path / "teacher"

    def create(
        self,
        settings: Settings,
        split: Split,
        state: Mapping[str, Any],
        *,
        store_teacher: Callable[[Path], None] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Create and lock the folder, or delete the files of an earlier run in it; then write what ``--resume`` needs.

        If that fails, a new folder is removed again.

        Args:
            store_teacher: writes the teacher into a folder.

        Raises:
            UsageError: the folder is not empty and ``overwrite`` is false.
            OutputError: the folder cannot be written.
        """
        with deferred_signals():
            created = self._make_folders(overwrite=overwrite)
            self.lock.acquire()
            is_empty = self.path.absolute() in created
            try:
                with writing(self.path):
                    is_empty = not self._files()
                self._delete_run()
                replace_text(self.images_file, as_lines(split))
                self.write_unreadable(split)
                self.save_state(state)
                if store_teacher:
                    with writing(self.teacher_folder):
                        store_teacher(self.teacher_folder)
                self.write_settings(settings)
            except BaseException:
                if is_empty:
                    self._remove_created(created)
                raise

    def _make_folders(self, *, overwrite: bool) -> list[Path]:
        """Create the folder and its parents; return those that did not exist, the deepest first."""
        created: list[Path] = []
        absolute = self.path.absolute()
        try:
            for folder in reversed((absolute, *absolute.parents)):
                with suppress(FileExistsError):
                    folder.mkdir()
                    created.insert(0, folder)
        except OSError as error:
            raise OutputError(f"Cannot write to {self.path}", why=reason_of(error)) from error
        if absolute not in created:  # checked again: another process may have created it
            require_free(self.path, overwrite=overwrite, resume=False, folder=True)
        return created

    def _files(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path != self.lock.file]

    def _delete_run(self) -> None:
        """Delete the files of an earlier run that the new run does not replace at once."""
        with writing(self.path):
            for name in ("config.toml", "state.pt", "metrics.jsonl", "curves.png", "model.safetensors"):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.teacher_folder, self.tensorboard_folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_created(self, created: list[Path]) -> None:
        """Remove the files, and the folders that this process created unless another one uses them."""
        with suppress(OSError):
            for path in self._files():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        self.lock.release()
        with suppress(OSError):
            for folder in created:
                folder.rmdir()

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
        different = {name: value for name, value in given.items() if not same_setting(value, getattr(settings, name))}
        if different:
            raise UsageError(
                f"The run in {self.path} has other settings",
                why=", ".join(f"{name} is {getattr(settings, name)!r}, not {new!r}" for name, new in different.items()),
                hint="leave these options out, or start another run",
            )
        return settings

    def write_settings(self, settings: Settings) -> None:
        replace_text(self.settings_file, as_toml(settings))

    def read_images(self) -> list[StoredImage]:
        """Return the images of the run.

        Raises:
            RefusedError: the file is missing or damaged.
        """
        with refuse_damaged(self.images_file):
            return from_lines(self.images_file.read_text(encoding="utf-8"))

    def save_state(self, state: Mapping[str, Any]) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        replace_bytes(self.state_file, buffer.getvalue())

    def load_state(self) -> dict[str, Any]:
        """Return the saved state.

        Raises:
            RefusedError: the file is missing or damaged.
        """
        import torch

        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise RefusedError(f"No file {self.state_file}", hint="--overwrite starts the run again") from error
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

    @property
    def tensorboard_folder(self) -> Path:
        return self.path / "tensorboard"

    def write_metrics(self, history: list[Metrics], best_metric: BestMetric = "top1") -> str:
        """Write the metrics and draw the curves; return why they cannot be drawn, which does not stop a training."""
        replace_text(self.metrics_file, "".join(json.dumps(metrics) + "\n" for metrics in history))
        file = self.path / "curves.png"
        if draw_curves := load_curves():
            try:
                content = draw_curves(history, printable(self.path.name), best_metric)
            except Exception as error:  # matplotlib raises many types
                return f"Cannot draw {file} · {(reason_of(error).splitlines() or [type(error).__name__])[0]}"
            replace_bytes(file, content)
        return ""

    def write_unreadable(self, split: Split) -> None:
        lines = (f"{json.dumps(key_of(path, split.root))}\t{problem}\n" for path, problem in split.unreadable)
        replace_text(self.unreadable_file, "".join(lines))

    def read_unreadable(self) -> tuple[tuple[str, str], ...]:
        """Return the unreadable images of the run, as (path relative to the data set, reason).

        Raises:
            RefusedError: the file is missing or damaged.
        """
        with refuse_damaged(self.unreadable_file):
            lines = self.unreadable_file.read_text(encoding="utf-8").splitlines()
            return tuple((json.loads(path), problem) for path, problem in (line.split("\t", 1) for line in lines))


def load_curves(log: Log = silent) -> Callable[[list[Metrics], str, BestMetric], bytes] | None:
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
