"""Write groups of duplicates as a table, jsonl or csv, and as a page."""

import base64
import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levit_cli.choices import TableFormat
from levit_cli.embed.groups import DIGITS, Facts, Group
from levit_cli.errors import InputError
from levit_cli.predict.records import as_json, path_fields
from levit_cli.system.extras import extra
from levit_cli.system.output import write_output
from levit_cli.system.progress import Log
from levit_cli.system.text import count_noun, is_utf8, printable

BY_SUFFIX: dict[str, TableFormat] = {".jsonl": "jsonl", ".csv": "csv", ".txt": "table"}
CSV_HEADER = ("group", "kind", "similarity", "rank", "path", "error")

Failures = Sequence[tuple[str, InputError]]


@dataclass(frozen=True)
class Report:
    """Where the groups are reported.

    Args:
        page: the file of the HTML page, if there is to be one.
        log: receives the summary; None if there is to be none.
    """

    format: TableFormat
    page: Path | None
    log: Log | None

    def complete(self, groups: Sequence[Group], failures: Failures, facts_of: Callable[[str], Facts | None]) -> bytes:
        """Write the page, log the summary, and return the groups in the chosen format.

        Args:
            facts_of: returns what is known of the image with a path.
        """
        text = summary(groups)
        if self.page is not None:
            with extra("plot", "The page of duplicates"):
                from levit_cli.embed.page import as_html

            write_output(self.page, as_html(groups, text, facts_of).encode())
        if self.log is not None:
            self.log(text)
        return {"jsonl": _as_jsonl, "csv": _as_csv, "table": _as_table}[self.format](groups, failures)


def summary(groups: Sequence[Group]) -> str:
    """Return one line with the numbers of groups and of images."""
    exact = sum(group.kind == "exact" for group in groups)
    more = sum(len(group.paths) - 1 for group in groups)
    return f"{count_noun(len(groups), 'group')}, {exact:,} exact; {count_noun(more, 'image')} besides the best of each"


def _as_jsonl(groups: Sequence[Group], failures: Failures) -> bytes:
    lines = [{"kind": group.kind, "similarity": group.similarity, **paths_fields(group.paths)} for group in groups]
    errors = [
        {"kind": "error", **path_fields(path), "error": {"kind": error.kind, "message": error.message}}
        for path, error in failures
    ]
    return b"".join(as_json(line) + b"\n" for line in [*lines, *errors])


def paths_fields(paths: Sequence[str]) -> dict[str, Any]:
    """Return paths as a JSON field. If one is not UTF-8, a second field has the exact bytes of all in Base64."""
    fields: dict[str, Any] = {"paths": [path_fields(path)["path"] for path in paths]}
    if not all(map(is_utf8, paths)):
        fields["paths_b64"] = [base64.b64encode(os.fsencode(path)).decode("ascii") for path in paths]
    return fields


def _as_csv(groups: Sequence[Group], failures: Failures) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for number, group in enumerate(groups, start=1):
        for rank, path in enumerate(group.paths, start=1):
            writer.writerow((number, group.kind, f"{group.similarity:.{DIGITS}f}", rank, path, ""))
    for path, error in failures:
        writer.writerow(("", "error", "", "", path, f"{error.kind}: {error.message}"))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _as_table(groups: Sequence[Group], failures: Failures) -> bytes:
    lines = []
    for number, group in enumerate(groups, start=1):
        lines.append(f"group {number}: {group.kind}, similarity {group.similarity:.4f}")
        lines += [f"  {printable(path)}" for path in group.paths]
    lines += [f"error: {printable(path)}: {error.kind}: {printable(error.message)}" for path, error in failures]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
