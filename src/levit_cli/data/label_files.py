"""Read class names from a file: JSON, one name per line, or a table.

Other programs write such files in many layouts. Each is understood as a whole or refused with what was found.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from levit_cli.data.labels import (
    INDEX,
    WORDNET_ID,
    Labels,
    from_config,
    from_id2label,
    from_label2id,
    from_list,
    from_names,
    in_order,
    is_integer,
)
from levit_cli.errors import RefusedError, reason_of
from levit_cli.system.text import parse_json

Rows = list[list[str]]
ID_IN_FRONT = re.compile(rf"({WORDNET_ID.pattern})[ ,;:]+(.+)")  # as in ImageNet's synset_words.txt
INDEX_IN_FRONT = re.compile(rf"({INDEX.pattern})([ ,;:]+)(.+)")
INDEX_BEHIND = re.compile(rf"(.+?) ?[,;:] ?({INDEX.pattern})")  # as in tables of names and indices


def read_labels(path: Path) -> Labels:
    """Read a label file: JSON, or text with one name per line, or a table with WordNet ids or class indices.

    Raises:
        RefusedError: the file cannot be read, or does not contain labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = _json_in(text, required=path.suffix.lower() == ".json")
        return _cleaned(_from_text(text) if content is None else _from_json(content))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, RefusedError) as error:
        raise RefusedError(f"Cannot read labels from {path}", why=reason_of(error)) from error


def _json_in(text: str, *, required: bool) -> Any:
    """Return the JSON in a text. If it is not required, return None unless the text is an object or a list."""
    if required:
        return parse_json(text)
    with suppress(json.JSONDecodeError):
        return parse_json(text) if text.lstrip().startswith(("{", "[")) else None
    return None


def _from_json(content: Any) -> Labels:
    if not isinstance(content, dict):
        return from_list(content)
    if "id2label" in content or "label2id" in content:
        return _from_config(content)
    timm = {**content, **(content.get("pretrained_cfg") or {})}
    if "label_names" in timm:
        return from_list(timm["label_names"])
    if content and all(map(is_integer, content.values())):
        return from_label2id(content)
    return from_id2label(content)


def _from_config(config: dict[str, Any]) -> Labels:
    labels = from_config(config, named=config.get("levit_cli", {}).get("named") is True)
    if labels is None:
        raise RefusedError("its labels are generated (LABEL_0, LABEL_1 and so on)")
    return labels


def _from_text(text: str) -> Labels:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise RefusedError("the file is empty" if lines == [""] else f"line {lines.index('') + 1} is empty")
    if "\0" in text:
        raise RefusedError("it contains NUL bytes", hint="save it as UTF-8")
    if rows := _rows(lines):
        return _from_table(rows)
    if len(lines) > 2 and (_rows(lines[1:]) or all(line.startswith("- ") for line in lines[1:])):
        raise RefusedError(f"line 1 is a heading or another kind of line than those after it: {lines[0][:80]}")
    return from_list(lines)


def _rows(lines: Sequence[str]) -> Rows:
    """Return the cells of a table; no rows if the lines are names."""
    return _tab_separated(lines) or _with_ids(lines) or _with_indices(lines) or _before_indices(lines)


def _tab_separated(lines: Sequence[str]) -> Rows:
    """Return the cells of a table; no rows if the lines differ in the number of tabs, or have none."""
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines]
    return rows if {len(row) for row in rows} == {max(2, len(rows[0]))} else []


def _with_ids(lines: Sequence[str]) -> Rows:
    """Return WordNet id and name if all lines begin with an id."""
    matches = [ID_IN_FRONT.fullmatch(line) for line in lines]
    return [[match[1], match[2]] for match in matches if match] if all(matches) else []


def _with_indices(lines: Sequence[str]) -> Rows:
    """Return class index and name if all lines begin with a number and these are indices.

    Numbers from 1 are indices too, and wrong ones, unless only a space follows: "1 cent" is a name.
    """
    matches = [match for match in map(INDEX_IN_FRONT.fullmatch, lines) if match]
    numbers = sorted(int(match[1]) for match in matches)
    first = numbers[0] if numbers and not all(match[2].isspace() for match in matches) else 0
    if len(matches) < len(lines) or numbers != list(range(first, first + len(lines))):
        return []
    return [[match[1], match[3]] for match in matches]


def _before_indices(lines: Sequence[str]) -> Rows:
    """Return name and class index if all lines end with an index and the names differ."""
    matches = [match for match in map(INDEX_BEHIND.fullmatch, lines) if match]
    indices = sorted(int(match[2]) for match in matches)
    is_table = indices == list(range(len(lines))) and len({match[1] for match in matches}) == len(lines) > 1
    return [[match[1], match[2]] for match in matches] if is_table else []


def _from_table(rows: Rows) -> Labels:
    """Return the labels of a table with a column of WordNet ids, of class indices, or both."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    ids = next((column for column in columns if all(map(WORDNET_ID.fullmatch, column))), None)
    numbers = [column for column in columns if all(map(INDEX.fullmatch, column))]
    indices = next((column for column in numbers if sorted(map(int, column)) == [*range(len(rows))]), None) or next(
        iter(numbers), None
    )
    if ids is None and indices is None:
        what = f"it is a table of {len(columns)} columns without class indices or WordNet ids"
        raise RefusedError(what, why=f"the first line is {' | '.join(rows[0])[:80]}")
    others = (column for column in columns if column is not ids and column is not indices)
    names = next(others, ids or columns[0])
    entries: list[Any] = names if ids is None else [list(pair) for pair in zip(ids, names, strict=True)]
    return from_list(entries if indices is None else in_order(list(zip(map(int, indices), entries, strict=True))))


def _cleaned(labels: Labels) -> Labels:
    """Return the labels of a file without spaces around the names. Names that are WordNet ids are also ids."""
    names = tuple(name.strip() for name in labels.names)
    if "" in names:
        raise RefusedError(f"the label of class {names.index('')} is empty")
    wnids = labels.wnids or (names if all(map(WORDNET_ID.fullmatch, names)) else None)
    known = from_names(names)
    return known if wnids in (None, known.wnids) else Labels(names, wnids)
