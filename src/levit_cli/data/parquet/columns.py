"""Choose the columns of a Parquet file, and convert their values."""

import json
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import pyarrow as pa

from levit_cli.data.input import ImageColumns
from levit_cli.errors import InputError, UsageError
from levit_cli.system.text import printable

MAX_LISTED_COLUMNS = 10

Image = bytes | InputError


class ColumnNames(NamedTuple):
    """The columns that are read."""

    image: str
    key: str | None


def choose_columns(name: str, schema: Any, columns: ImageColumns) -> ColumnNames:
    """Return the columns to read from a file.

    Raises:
        InputError: the file has no column that can hold images.
        UsageError: several columns can hold images, or a chosen column does not exist.
    """
    candidates = [field.name for field in schema if _holds_images(field.type)]
    image = columns.image
    if image is None and ("image" in candidates or len(candidates) == 1):
        image = "image" if "image" in candidates else candidates[0]
    if image is None and candidates:
        hint = f"choose one with --image-column: {_listed(candidates)}"
        raise UsageError(f"{printable(name)} has {len(candidates)} columns that may hold images", hint=hint)
    if image is None:
        raise InputError("not_an_image", f"the Parquet file has no column of images; it has {_listed(schema.names)}")
    _require_column(name, schema, image, "--image-column", candidates)
    if columns.key is not None:
        keys = [field.name for field in schema if _is_key(field.type)]
        _require_column(name, schema, columns.key, "--key-column", keys)
    return ColumnNames(image, columns.key)


def label_column(name: str, schema: Any) -> tuple[str, dict[str, str]]:
    """Return the label column, and the names of its numbers; no names if the labels are names themselves.

    It is the column ``label``, or the only one that Hugging Face's metadata describe as a label.

    Raises:
        UsageError: there is no such column.
    """
    known = _class_labels(schema.metadata or {})
    column = next(iter(known)) if len(known) == 1 else "label"
    column = "label" if "label" in schema.names else column
    candidates = [field.name for field in schema if _is_key(field.type)]
    if candidates.count(column) != 1:
        why = f"its columns are {_listed(schema.names)}"
        hint = "the labels must be a column named label, of names or numbers"
        raise UsageError(f"{printable(name)} has no column of labels", why=why, hint=hint)
    return column, {str(number): label for number, label in enumerate(known.get(column, ()))}


def _class_labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of the classes by column, as Hugging Face stores them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        described = {column: feature["names"] for column, feature in features.items() if _is_class_label(feature)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {column: [*map(str, names)] for column, names in described.items() if isinstance(names, list)}


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def _require_column(name: str, schema: Any, column: str, option: str, candidates: list[str]) -> None:
    """Check that a column exists once and has a type that can be read."""
    if candidates.count(column) == 1:
        return
    count = schema.names.count(column)
    kind = f"its type is {schema.field(column).type}" if count == 1 else f"there are {count} columns of that name"
    why = kind if count else f"its columns are {_listed(schema.names)}"
    hint = f"{option} can be {_listed(candidates)}" if candidates else ""
    raise UsageError(f"{printable(name)} has no column {printable(column)} for {option}", why=why, hint=hint)


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED_COLUMNS
    text = ", ".join(printable(name) for name in names[:MAX_LISTED_COLUMNS])
    return f"{text} and {more} more" if more > 0 else text or "no columns"


def _stored(data_type: Any) -> Any:
    """Return the type of the values of a dictionary or an extension type."""
    while isinstance(data_type, (pa.DictionaryType, pa.BaseExtensionType)):
        is_dictionary = isinstance(data_type, pa.DictionaryType)
        data_type = data_type.value_type if is_dictionary else data_type.storage_type
    return data_type


def _is_binary(data_type: Any) -> bool:
    return data_type in (pa.binary(), pa.large_binary(), pa.binary_view())


def _holds_images(data_type: Any) -> bool:
    stored = _stored(data_type)
    if pa.types.is_struct(stored):
        return stored.get_field_index("bytes") >= 0 and _is_binary(_stored(stored.field("bytes").type))
    return _is_binary(stored)


def _is_key(data_type: Any) -> bool:
    stored = _stored(data_type)
    is_text = stored in (pa.string(), pa.large_string(), pa.string_view())
    return is_text or _is_binary(stored) or pa.types.is_integer(stored)


def _plain(array: Any) -> Any:
    """Return the values of a dictionary-encoded or extension array."""
    while isinstance(array, (pa.DictionaryArray, pa.ExtensionArray)):
        array = array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array.storage
    return array


def images_in(array: Any) -> list[Image]:
    """Return the image of each row, or the reason why it has none."""
    array = _plain(array)
    if not pa.types.is_struct(array.type):
        return [_image(content) for content in array.to_pylist()]
    fields = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    contents = _plain(fields["bytes"]).to_pylist()
    paths = texts_in(fields["path"]) if "path" in fields and _is_key(fields["path"].type) else repeat(None)
    return [_image(content, path) for content, path in zip(contents, paths, strict=False)]


def _image(content: bytes | None, path: str | None = None) -> Image:
    if content is not None:
        return content
    if path:
        message = f"the row holds no bytes, only the path {printable(path)[:200]}, which is not opened"
        return InputError("not_found", message)
    return InputError("not_found", "the row holds no image: its cell is null")


def texts_in(array: Any) -> Iterator[str | None]:
    """Yield strings, or integers as text; bytes that are not UTF-8 become surrogates, as in file names."""
    array = _plain(array)
    if pa.types.is_integer(array.type):
        return (None if value is None else str(value) for value in array.to_pylist())
    values = array.cast(pa.large_binary()).to_pylist()
    return (None if value is None else value.decode("utf-8", "surrogateescape") for value in values)
