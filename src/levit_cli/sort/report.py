"""Report what was sorted: a line per image on stdout, what failed on stderr, and a summary at the end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from levit_cli.choices import SortFormat
from levit_cli.predict.records import as_json, path_fields
from levit_cli.sort.folders import UNCERTAIN
from levit_cli.sort.journal import Step
from levit_cli.sort.plan import Planned
from levit_cli.system.output import Target
from levit_cli.system.progress import Log
from levit_cli.system.text import count_noun, printable

MAX_LOGGED = 20  # failures that are named without -v


def path_of(folder: Path, target: str) -> str:
    """Return the path of a target, beginning as the user named the sorted folder."""
    return str(folder / target)


@dataclass
class Reporter:
    """Writes what becomes of each file.

    Args:
        folder: the sorted folder, as the user named it.
        target: where lines are written, in this format; None writes none.
        log: writes messages.
        quiet: no summary.
        verbose: name every failure and everything that was skipped.

    Attributes:
        images: number of sorted images by folder.
        skipped: number of images that were not touched, by the reason.
        failed: number of files that could not be sorted or put back.
    """

    folder: Path
    target: Target | None
    format: SortFormat
    log: Log
    quiet: bool = False
    verbose: bool = False
    images: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    num_sidecars: int = 0
    failed: int = 0

    def sorted(self, planned: Planned) -> None:
        """Report an image and its sidecars that were sorted, or would be."""
        sidecars = [step for step in planned.steps if step.image is not None]
        image = [step for step in planned.steps if step.image is None]
        self.images.update([planned.folder] * len(image))
        self.num_sidecars += len(sidecars)
        if self.target is None:
            return
        if self.format == "table":
            lines = [
                f"{step.action} {printable(step.source)} → {printable(self._to(step.target))}" for step in planned.steps
            ]
            self._write(*(line.encode() for line in lines))
            return
        item = planned.item
        action = {"action": planned.steps[0].action, **(_named("to", self._to(image[0].target)) if image else {})}
        others = [{**path_fields(step.source), **_named("to", self._to(step.target))} for step in sidecars]
        record = {"status": "ok", **action, "label": item.label, "prob": item.prob, "sidecars": others}
        self._write(as_json({**path_fields(item.path), **record}))

    def put_back(self, step: Step) -> None:
        """Report a file that was put back or removed, or would be."""
        self.images["put back" if step.action == "move" else "removed"] += 1
        path = self._to(step.target)
        if self.format == "table":
            does = f"put back {printable(path)} → {printable(step.source)}"
            self._write((does if step.action == "move" else f"remove {printable(path)}").encode())
        else:
            record = {"status": "ok", "action": f"undo {step.action}", **_named("source", step.source)}
            self._write(as_json({**path_fields(path), **record}))

    def keep(self, step: Step, reason: str) -> None:
        """Report a file that was not put back."""
        origin = f"; it came from {step.source}" if step.action == "move" else ""
        self.fail(self._to(step.target), f"{reason}{origin}", "Not undone")

    def skip(self, path: str, reason: str) -> None:
        """Report an image that needs nothing."""
        self.skipped[reason] += 1
        if self.verbose:
            self.log(f"Skipped {printable(path)} · {reason}")
        if self.format == "jsonl":
            self._write(as_json({**path_fields(path), "status": "skipped", "reason": reason}))

    def fail(self, path: str, reason: str, what: str = "Not sorted") -> None:
        """Report a file that could not be sorted or put back."""
        self.failed += 1
        if self.verbose or self.failed <= MAX_LOGGED:
            self.log(f"{what}: {printable(path)} · {printable(reason)}")
        if self.format == "jsonl":
            self._write(as_json({**path_fields(path), "status": "error", "error": {"message": reason}}))

    def _to(self, target: str) -> str:
        return path_of(self.folder, target)

    def _write(self, *lines: bytes) -> None:
        if self.target is not None:
            for line in lines:
                self.target.write(line + b"\n")

    def summarize(self, *, num_errors: int, dry_run: bool) -> None:
        """Log how many images were sorted, skipped and not sorted."""
        self._log_unnamed()
        if not self.quiet:
            self.log(". ".join(self._sentences(num_errors, "Would sort" if dry_run else "Sorted")))

    def summarize_undo(self, *, dry_run: bool) -> None:
        """Log how many files were put back, removed and kept."""
        self._log_unnamed()
        if not self.quiet:
            counts = [f"{count_noun(number, 'file')} {verb}" for verb, number in sorted(self.images.items())]
            kept = [f"{count_noun(self.failed, 'file')} kept"] if self.failed else []
            self.log(f"{'Would undo' if dry_run else 'Undone'}: {', '.join([*counts, *kept]) or 'nothing'}")

    def _log_unnamed(self) -> None:
        if self.failed > MAX_LOGGED and not self.verbose:
            self.log(f"… and {count_noun(self.failed - MAX_LOGGED, 'more file')}; -v names all of them")

    def _sentences(self, num_errors: int, verb: str) -> Iterator[str]:
        details = []
        if self.images[UNCERTAIN]:
            details.append(f"{self.images[UNCERTAIN]:,} uncertain")
        if self.num_sidecars:
            details.append(count_noun(self.num_sidecars, "sidecar"))
        folders = count_noun(len(+self.images), "folder")
        images = count_noun(self.images.total(), "image")
        yield f"{verb} {images} into {folders} in {printable(str(self.folder))}" + (
            f" ({', '.join(details)})" if details else ""
        )
        for reason, number in sorted(self.skipped.items()):
            yield f"{count_noun(number, 'image')} {'was' if number == 1 else 'were'} {reason}"
        if self.failed:
            yield f"{count_noun(self.failed, 'file')} could not be sorted"
        if num_errors:
            yield f"{count_noun(num_errors, 'result')} {'is an error' if num_errors == 1 else 'are errors'}"


def _named(key: str, path: str) -> dict[str, Any]:
    """Return the fields of a path under another name."""
    return {name.replace("path", key, 1): value for name, value in path_fields(path).items()}
