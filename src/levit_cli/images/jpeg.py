"""Parse the segments of a JPEG file, remove its metadata, and detect missing image data.

libjpeg fills missing data with gray without an error, and Pillow rejects every file without an end marker. We need a
finer distinction: an image that lacks only the end marker is complete, but a partly gray image would get a wrong label.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # excludes stuffed 0xFF bytes and restart markers
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = (0x01, 0xD8, 0xD9)  # markers without length and data
END, SCAN, EXIF = 0xD9, 0xDA, 0xE1
END_MARKER = bytes((0xFF, END))
METADATA = frozenset(range(0xE0, 0xF0)) - {0xEE} | {0xFE}  # Adobe's 0xEE is kept: it defines the color space


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


def without_metadata(data: bytes) -> bytes:
    """Remove texts, profiles and all EXIF blocks but the first, which contains the orientation."""
    kept: list[bytes] = []
    has_exif = False
    for segment in segments(data):
        if segment.marker == SCAN:
            return b"".join([*kept, data[segment.start :]])
        is_exif = segment.marker == EXIF and segment.data.startswith(b"Exif") and not has_exif
        has_exif |= is_exif
        if is_exif or segment.marker not in METADATA:
            kept.append(data[segment.start : segment.end])
    return b"".join(kept)


def lacks_end_marker(data: bytes) -> bool:
    """Whether the file has no end marker where the format requires one."""
    return all(segment.marker != END for segment in segments(data))


def with_filler_and_end(data: bytes) -> list[bytes]:
    """Return versions of a JPEG with different filler and an end marker, or no version if data is known to be missing.

    They decode to the same image if and only if nothing but the end marker is missing: decoders skip bytes between
    complete data and the end marker, but they decode such bytes instead of missing data.
    """
    if not _scans_are_complete(data) or data.endswith(bytes(2)):  # zeros are the tail of an interrupted download
        return []
    filler = bytes(range(255)) * 16  # contains no marker, and is longer than any block of coefficients
    restarts = len(RESTART.findall(data, data.rfind(bytes((0xFF, SCAN)))))
    restart = bytes((0xFF, 0xD0 + restarts % 8))  # without the next restart, a cut before it would show no filler
    fillers = (filler, filler[::-1], filler[85:])
    return [data.rstrip(b"\xff") + each + restart + each + END_MARKER for each in fillers]


def _scans_are_complete(data: bytes) -> bool:
    """Whether the scans code all bits of all coefficients of all components, and the data ends in a scan.

    A segment after the last scan would contain the filler, which then could not show.
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
