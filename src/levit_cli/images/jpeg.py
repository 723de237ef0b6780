"""The segments of a JPEG file: what can be left out, and whether anything is missing.

libjpeg draws gray in place of missing data and says so only to those who ask; Pillow refuses every file without an end
marker. Neither will do: an image of which only the marker is missing is whole, any other would get a wrong label.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed 0xFF nor a restart
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = (0x01, 0xD8, 0xD9)  # markers without a length and content
END, SCAN, EXIF = 0xD9, 0xDA, 0xE1
END_MARKER = bytes((0xFF, END))
NOTES = frozenset(range(0xE0, 0xF0)) - {0xEE} | {0xFE}  # 0xEE is Adobe's, which tells the colour space


class Segment(NamedTuple):
    """A marker of a JPEG with its content; in a file from ``start`` to ``end``."""

    marker: int
    content: bytes
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the end marker; what is coded behind the header of a scan belongs to none."""
    end = 0
    while found := MARKER.search(data, end):
        start, end = found.span()
        marker = found[1][0]
        length = 0 if marker in BARE else int.from_bytes(data[end : end + 2], "big")
        yield Segment(marker, data[end + 2 : end + length], start, end + length)
        end += length
        if marker == END:
            return


def without_notes(data: bytes) -> bytes:
    """All but texts and profiles; of EXIF, only the first block, which has the orientation."""
    kept: list[bytes] = []
    has_exif = False
    for segment in segments(data):
        if segment.marker == SCAN:
            return b"".join([*kept, data[segment.start :]])
        is_exif = segment.marker == EXIF and segment.content.startswith(b"Exif") and not has_exif
        has_exif |= is_exif
        if is_exif or segment.marker not in NOTES:
            kept.append(data[segment.start : segment.end])
    return b"".join(kept)


def is_cut_short(data: bytes) -> bool:
    """Whether there is no end marker where one belongs."""
    return all(segment.marker != END for segment in segments(data))


def with_ends(data: bytes) -> list[bytes]:
    """Versions of a JPEG without end marker that show the same image if nothing but the marker is missing.

    Decoders skip what lies between complete data and the end marker, but draw what they find in place of missing data.
    """
    if not _scans_are_complete(data) or data.endswith(bytes(2)):  # zeros: a download whose rest never came
        return []
    filling = bytes(range(255)) * 16  # no marker; more than any block of coefficients takes
    restarts = len(RESTART.findall(data, data.rfind(bytes((0xFF, SCAN)))))
    restart = bytes((0xFF, 0xD0 + restarts % 8))  # the next one, or a cut in front of it would be skipped to the end
    fillers = (filling, filling[::-1], filling[85:])
    return [data.rstrip(b"\xff") + filler + restart + filler + END_MARKER for filler in fillers]


def _scans_are_complete(data: bytes) -> bool:
    """Whether the scans together code every coefficient of every component down to its last bit.

    And whether the last is what the data ends in: a segment behind it would swallow what is filled in.
    """
    missing = {(0, 0)}
    marker = 0
    for segment in segments(data):
        marker = segment.marker
        content = segment.content
        if segment.marker in FRAMES:  # ..., count, (component, sampling, table) each
            missing = {(content[6 + 3 * i], k) for i in range(content[5]) for k in range(64)}
        elif segment.marker == SCAN and not content[-1] & 15:  # count, (component, tables) each, first, last, bits
            missing -= {(content[1 + 2 * i], k) for i in range(content[0]) for k in range(content[-3], content[-2] + 1)}
    return marker == SCAN and not missing
