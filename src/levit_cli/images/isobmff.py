"""Read the structure of HEIF and AVIF files: which item is the image, how it is coded, and how large it is.

The files consist of boxes. The box ``meta`` lists items: coded images, derived images such as a grid of tiles,
thumbnails, depth maps, and blocks of metadata. One of the items is the primary one, which is the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

TOP_LEVEL = (b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"free", b"skip", b"uuid", b"wide", b"mini")
METADATA = (b"Exif", b"mime", b"uri ")
HEADER_BYTES = 8
MAX_DEPTH = 8  # of images that are derived from derived images


class IncompleteError(ValueError):
    """The file ends before the data that its structure declares."""


class Box(NamedTuple):
    """The type of a box, and the range of bytes in the file that holds its content."""

    kind: bytes
    start: int
    end: int


@dataclass
class Item:
    """An item: its type and where that is in the file, its properties in order, its references and its data."""

    kind: bytes
    kind_start: int
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)
    extents: list[tuple[int, int]] = field(default_factory=list)  # (start, end) in the file
    is_elsewhere: bool = False  # its data is in another item or in another file

    @property
    def size(self) -> tuple[int, int] | None:
        """The declared (width, height) before rotation."""
        content = dict(self.properties).get(b"ispe")
        return (_integer(content, 4, 4), _integer(content, 8, 4)) if content is not None else None


@dataclass
class Structure:
    """The items of a file by number, the number of the primary one, and the number of bytes that belong to the format.

    Args:
        has_tracks: the file has an image sequence.
    """

    length: int
    items: dict[int, Item] = field(default_factory=dict)
    primary: int | None = None
    has_tracks: bool = False

    def image_items(self) -> list[Item]:
        """Return the items that are decoded: the primary image, the images that it is derived from, its opacities.

        Raises:
            ValueError: a reference is broken.
        """
        if self.primary is None:
            return []
        numbers = [*self._sources(self.primary, MAX_DEPTH)]
        for number, item in self.items.items():
            if self.primary in item.references.get(b"auxl", ()) and _is_opacity(item):
                numbers += self._sources(number, MAX_DEPTH)
        return [self.items[number] for number in dict.fromkeys(numbers)]

    def _sources(self, number: int, depth: int) -> Iterator[int]:
        if not depth or number not in self.items:
            raise ValueError(f"item {number} is missing or derived from itself")
        yield number
        for source in dict.fromkeys(self.items[number].references.get(b"dimg", ())):
            yield from self._sources(source, depth - 1)


def _is_opacity(item: Item) -> bool:
    kinds = (b":aux:alpha", b"auxid:1\0")
    return any(kind == b"auxC" and any(one in content for one in kinds) for kind, content in item.properties)


class _Fields:
    """Reads the big-endian fields of a box that starts with a version, one after the other."""

    def __init__(self, data: bytes, box: Box) -> None:
        self._data = data
        self.position, self.end = box.start, box.end
        self.version = self.integer(1)
        self.flags = self.integer(3)

    def integer(self, size: int) -> int:
        self.position += size
        if self.position > self.end:
            raise ValueError("a box is too short")
        return int.from_bytes(self._data[self.position - size : self.position], "big")

    def number(self) -> int:
        """Read the number of an item, or a count, whose size depends on the version."""
        return self.integer(4 if self.version else 2)


def _integer(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        raise ValueError("a box is too short")
    return int.from_bytes(data[start : start + size], "big")


def read_structure(data: bytes) -> Structure:
    """Read the structure of a file.

    Raises:
        IncompleteError: the file ends too early.
        ValueError: the structure is broken.
    """
    top = [*boxes(data, TOP_LEVEL)]
    structure = Structure(top[-1].end, has_tracks=any(box.kind == b"moov" for box in top))
    meta = next((box for box in top if box.kind == b"meta"), None)
    if meta is not None:
        _read_meta(data, meta, structure)
    return structure


def boxes(data: bytes, kinds: tuple[bytes, ...]) -> Iterator[Box]:
    """Yield the boxes of a file, which are of these types. What follows the last one is not part of the format.

    Raises:
        IncompleteError: the file ends within a box.
    """
    start = 0
    while data[start + 4 : start + HEADER_BYTES] in kinds:
        box = _box(data, start)
        if box.end > len(data):
            raise IncompleteError(f"the box {_name(box.kind)} is truncated")
        yield box
        start = box.end


def _box(data: bytes, start: int) -> Box:
    length, content = _integer(data, start, 4), start + HEADER_BYTES
    if length == 1:
        length, content = _integer(data, content, 8), content + 8
    end = start + length if length else len(data)
    if end < content:
        raise ValueError("the length of a box is too small")
    return Box(data[start + 4 : start + HEADER_BYTES], content, end)


def children(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes in a box.

    Raises:
        ValueError: one is larger than the box around it.
    """
    while start + HEADER_BYTES <= end:
        box = _box(data, start)
        if box.end > end:
            raise ValueError(f"the box {_name(box.kind)} is larger than the one around it")
        yield box
        start = box.end


def _name(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))


def _read_meta(data: bytes, meta: Box, structure: Structure) -> None:
    found = {box.kind: box for box in children(data, meta.start + 4, meta.end)}
    if b"iinf" not in found:
        return
    structure.items = dict(_item_infos(data, found[b"iinf"]))
    if b"pitm" in found:
        structure.primary = _Fields(data, found[b"pitm"]).number()
    if b"iloc" in found:
        inner = found.get(b"idat", Box(b"idat", 0, 0))
        _read_locations(_Fields(data, found[b"iloc"]), structure.items, len(data), inner)
    if b"iprp" in found:
        _read_properties(data, found[b"iprp"], structure.items)
    if b"iref" in found:
        _read_references(data, found[b"iref"], structure.items)


def _item_infos(data: bytes, box: Box) -> Iterator[tuple[int, Item]]:
    fields = _Fields(data, box)
    fields.number()  # how many there are
    for info in children(data, fields.position, box.end):
        entry = _Fields(data, info)
        if info.kind == b"infe" and entry.version >= 2:
            number = entry.integer(2 if entry.version == 2 else 4)
            entry.integer(2)  # protection
            yield number, Item(entry.integer(4).to_bytes(4, "big"), entry.position - 4)


def _read_locations(fields: _Fields, items: dict[int, Item], file_end: int, inner: Box) -> None:
    sizes = fields.integer(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(fields.integer(2 if fields.version < 2 else 4)):
        number = fields.integer(2 if fields.version < 2 else 4)
        method = fields.integer(2) & 15 if fields.version else 0
        is_elsewhere = fields.integer(2) != 0 or method > 1
        first, last = (inner.start, inner.end) if method == 1 else (0, file_end)
        base = first + fields.integer(base_size)
        extents = []
        for _ in range(fields.integer(2)):
            fields.integer(index_size if fields.version else 0)
            start = base + fields.integer(offset_size)
            length = fields.integer(length_size)
            extents.append((start, start + length if length else last))
        if number in items:
            items[number].extents, items[number].is_elsewhere = extents, is_elsewhere


def _read_properties(data: bytes, box: Box, items: dict[int, Item]) -> None:
    properties: list[tuple[bytes, bytes]] = []
    for part in children(data, box.start, box.end):
        if part.kind == b"ipco":
            found = children(data, part.start, part.end)
            properties = [(each.kind, data[each.start : each.end]) for each in found]
        elif part.kind == b"ipma":
            _associate(_Fields(data, part), properties, items)


def _associate(fields: _Fields, properties: list[tuple[bytes, bytes]], items: dict[int, Item]) -> None:
    size = 2 if fields.flags & 1 else 1
    for _ in range(fields.integer(4)):
        number = fields.number()
        indices = [fields.integer(size) & ((1 << 8 * size - 1) - 1) for _ in range(fields.integer(1))]
        if number in items:
            items[number].properties += [properties[index - 1] for index in indices if 0 < index <= len(properties)]


def _read_references(data: bytes, box: Box, items: dict[int, Item]) -> None:
    version = _Fields(data, box).version
    for reference in children(data, box.start + 4, box.end):
        size = 4 if version else 2
        origin = _integer(data, reference.start, size)
        count = _integer(data, reference.start + size, 2)
        first = reference.start + size + 2
        if first + size * count > reference.end:
            raise ValueError("a list of references is too short")
        targets = [_integer(data, first + size * number, size) for number in range(count)]
        if origin in items:
            items[origin].references.setdefault(reference.kind, []).extend(targets)


def without_metadata(data: bytes, structure: Structure) -> bytes:
    """Return the file with its blocks of metadata marked as something else, so that no decoder reads them."""
    patched = bytearray(data[: structure.length])
    for item in structure.items.values():
        if item.kind in METADATA:
            patched[item.kind_start : item.kind_start + 4] = b"skip"
    return bytes(patched)
