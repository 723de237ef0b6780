"""Parse the segments of a JPEG file, remove its metadata, and detect missing image data.

libjpeg fills missing data with gray without an error, and Pillow rejects every file without an end marker. We need a
finer distinction: an image that lacks only the end marker is complete, but a partly gray image would get a wrong label.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from levit_cli.images.orientation import Metadata

MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # excludes stuffed 0xFF bytes and restart markers
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = (0x01, 0xD8, 0xD9)  # markers without length and data
END, SCAN, APP0, APP1, APP14, COMMENT = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
END_MARKER = bytes((0xFF, END))
METADATA = range(0xE0, 0xF0)  # application segments; comments stay, because no decoder fails on them
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


class Segment(NamedTuple):
    """A JPEG marker with its data, which lies at bytes ``start`` to ``end`` of the file."""

    marker: int
    data: bytes
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments up to the end marker, without the coded data that follows the header of a scan."""
    end = 0
    while match := MARKER.search(data, end):
        start, end = match.span()
        marker = match[1][0]
        length = 0 if marker in WITHOUT_LENGTH else int.from_bytes(data[end : end + 2], "big")
        yield Segment(marker, data[end + 2 : end + length], start, end + length)
        end += length
        if marker == END:
            return


def split(data: bytes) -> tuple[bytes, Metadata]:
    """Return the image without its metadata, and the metadata that may hold its orientation.

    Pillow joins the parts of an EXIF block in quadratic time, and fails on many kinds of broken metadata.
    """
    kept: list[bytes] = []
    exif: list[bytes] = []
    xmp = b""
    for segment in segments(data):
        if segment.marker == SCAN:
            kept.append(data[segment.start :])
            break
        if segment.marker == APP1 and segment.data.startswith(EXIF):
            exif.append(segment.data[len(EXIF) :])
        elif segment.marker == APP1 and segment.data.startswith(XMP):
            xmp = segment.data[len(XMP) :]
        elif (segment.marker not in METADATA and not _is_cut_comment(segment)) or _defines_colors(segment):
            kept.append(data[segment.start : segment.end])
    return b"".join(kept), Metadata(b"".join(exif), xmp)


def _is_cut_comment(segment: Segment) -> bool:
    """Whether the length of a comment is too small to include itself, so that decoders would misread what follows."""
    return segment.marker == COMMENT and segment.end - segment.start < 4


def _defines_colors(segment: Segment) -> bool:
    """Whether libjpeg determines the color space by this segment. It ignores shorter ones; Pillow fails on them."""
    jfif = segment.marker == APP0 and segment.data.startswith(b"JFIF\0") and len(segment.data) >= 14
    adobe = segment.marker == APP14 and segment.data.startswith(b"Adobe") and len(segment.data) >= 12
    return jfif or adobe


def lacks_end_marker(data: bytes) -> bool:
    """Whether the file has no end marker where the format requires one."""
    return all(segment.marker != END for segment in segments(data))


def with_filler_and_end(data: bytes) -> list[bytes]:
    """Return versions of a JPEG with different filler and an end marker; an empty list if data is known to be missing.

    The versions decode to the same image if and only if only the end marker is missing. Decoders skip filler after
    complete image data, but decode it in place of missing data.
    """
    if not _scans_are_complete(data) or data.endswith(bytes(2)):  # zeros: an interrupted download
        return []
    filler = bytes(range(255)) * 16  # contains no marker, and is longer than any block of coefficients
    restarts = len(RESTART.findall(data, data.rfind(bytes((0xFF, SCAN)))))
    restart = bytes((0xFF, 0xD0 + restarts % 8))  # without it, a cut before the next restart would go unnoticed
    fillers = (filler, filler[::-1], filler[85:])
    return [data.rstrip(b"\xff") + each + restart + each + END_MARKER for each in fillers]


def _scans_are_complete(data: bytes) -> bool:
    """Whether the scans code all bits of all coefficients of all components, and the data ends in a scan.

    A segment after the last scan would contain the filler, so that missing data would not be detected.
    """
    missing = {(0, 0)}
    marker = 0
    for segment in segments(data):
        marker = segment.marker
        header = segment.data
        if segment.marker in FRAME_HEADERS:  # …, count, then (component, sampling, table) for each
            missing = {(header[6 + 3 * i], k) for i in range(header[5]) for k in range(64)}
        elif segment.marker == SCAN and not header[-1] & 15:  # count, (component, tables) for each, first, last, bits
            missing -= {(header[1 + 2 * i], k) for i in range(header[0]) for k in range(header[-3], header[-2] + 1)}
    return marker == SCAN and not missing
