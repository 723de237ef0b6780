"""Write HEIF and AVIF files around coded images, with properties and references that encoders do not write."""

import struct
from dataclasses import dataclass, field

from levit_cli.images.isobmff import read_structure

CODINGS = (b"hvcC", b"av1C", b"pixi", b"colr", b"auxC")


@dataclass
class Part:
    """An item to write.

    Args:
        references: the numbers of other items by the type of the reference; items are numbered from 1.
    """

    kind: bytes
    data: bytes = b""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)
    extra: bytes = b""  # what follows the name in the item's entry


def coded(content: bytes, size: tuple[int, int] | None = None) -> Part:
    """Return the primary image of a file as a part, optionally with another declared (width, height)."""
    structure = read_structure(content)
    assert structure.primary is not None
    item = structure.items[structure.primary]
    data = b"".join(content[start:end] for start, end in item.extents)
    properties = [(kind, value) for kind, value in item.properties if kind in CODINGS]
    return Part(item.kind, data, [*properties, ispe(*(size or item.size or (0, 0)))])


def ispe(width: int, height: int) -> tuple[bytes, bytes]:
    return b"ispe", struct.pack(">III", 0, width, height)


def irot(turns: int) -> tuple[bytes, bytes]:
    """Return the property that rotates by ``turns`` times 90 degrees anticlockwise."""
    return b"irot", bytes([turns])


def imir(axis: int) -> tuple[bytes, bytes]:
    """Return the property that exchanges top and bottom (0), or left and right (1)."""
    return b"imir", bytes([axis])


def grid(rows: int, columns: int, width: int, height: int, tiles: list[int]) -> Part:
    content = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    if max(width, height) > 0xFFFF:
        content = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    return Part(b"grid", content, [ispe(width, height)], {b"dimg": tiles})


def exif(block: bytes, image: int) -> Part:
    """Return EXIF metadata for an image, given as a TIFF block."""
    return Part(b"Exif", bytes(4) + block, references={b"cdsc": [image]})


def xmp(block: bytes, image: int) -> Part:
    return Part(b"mime", block, references={b"cdsc": [image]}, extra=b"application/rdf+xml\0")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def full_box(kind: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags) + content)


def heif(parts: list[Part], primary: int = 1, brands: tuple[bytes, ...] = (b"heic", b"mif1")) -> bytes:
    """Write a file of numbered items, whose data is in the order of the items at the end of the file."""
    ftyp = box(b"ftyp", brands[0] + bytes(4) + b"".join(brands))
    length = len(_meta(parts, primary, 0))
    return ftyp + _meta(parts, primary, len(ftyp) + length + 8) + box(b"mdat", b"".join(part.data for part in parts))


def avif(parts: list[Part], primary: int = 1) -> bytes:
    return heif(parts, primary, (b"avif", b"mif1", b"miaf"))


def _meta(parts: list[Part], primary: int, start: int) -> bytes:
    handler = full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
    infos, locations, associations, references = b"", b"", b"", b""
    properties: list[tuple[bytes, bytes]] = []
    for number, part in enumerate(parts, 1):
        hidden = b"auxl" in part.references
        infos += full_box(b"infe", struct.pack(">HH", number, 0) + part.kind + b"\0" + part.extra, 2, int(hidden))
        locations += struct.pack(">HHHII", number, 0, 1, start, len(part.data))
        start += len(part.data)
        for each in part.properties:
            if each not in properties:
                properties.append(each)
        if part.properties:
            essential = (b"hvcC", b"av1C", b"irot", b"imir", b"clap")
            indices = [properties.index(each) + 1 | 0x80 * (each[0] in essential) for each in part.properties]
            associations += struct.pack(">HB", number, len(indices)) + bytes(indices)
        for kind, targets in part.references.items():
            references += box(kind, struct.pack(f">HH{len(targets)}H", number, len(targets), *targets))
    num_associated = sum(bool(part.properties) for part in parts)
    ipco = box(b"ipco", b"".join(box(*each) for each in properties))
    ipma = full_box(b"ipma", struct.pack(">I", num_associated) + associations)
    return full_box(
        b"meta",
        handler
        + full_box(b"pitm", struct.pack(">H", primary))
        + full_box(b"iloc", struct.pack(">HH", 0x4400, len(parts)) + locations)
        + full_box(b"iinf", struct.pack(">H", len(parts)) + infos)
        + box(b"iprp", ipco + ipma)
        + (full_box(b"iref", references) if references else b""),
    )
