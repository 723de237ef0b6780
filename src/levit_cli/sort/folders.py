"""Name the folders that images are sorted into: labels as names that every file system accepts.

A label may be any text: ``a/b``, ``..``, ``CON``, 300 characters, nothing. A label that is a safe name is its folder's
name. In all others, what is unsafe becomes ``_``, and a hash of the label follows, so that two labels never share a
folder. The rules are those of Windows, macOS and Linux together, so that the result can be copied anywhere.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

UNCERTAIN = "_uncertain"
MAX_BYTES = 200  # file systems allow 255; names within UTF-16 limits are always shorter
HASH = re.compile(r"~[0-9a-f]{8}$")
FORBIDDEN = '/\\:*?"<>|'
# Windows reserves these names, also with a suffix, as in nul.txt.
DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\.|$)", re.IGNORECASE)

ClassKey = tuple[str, int | None]


def folder_name(label: str) -> str:
    """Return a name for the folder of a label. Labels that differ have names that differ."""
    name = "".join(_replaced(character) for character in label)
    name = re.sub(r"^[-.\s]", "_", name)  # hidden files, options of commands
    name = re.sub(r"[.\s]$", "_", name)  # Windows removes these
    name = f"_{name}" if DEVICE.match(name) else name
    is_ours = folded(name) == UNCERTAIN or HASH.search(name)
    if name == label and name and not is_ours and len(name.encode()) <= MAX_BYTES:
        return name
    return with_hash(name, label)


def with_hash(name: str, label: str) -> str:
    """Return a name, cut if it is too long, with a hash of the label at its end."""
    room = MAX_BYTES - len("~") - 8
    cut = name.encode()[:room].decode("utf-8", "ignore").rstrip(". ") or "_"
    return f"{cut}~{_hash(label)}"


def folded(name: str) -> str:
    """Return what two names have in common if a file system may consider them equal: case and composition ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _replaced(character: str) -> str:
    return character if character.isprintable() and character not in FORBIDDEN else "_"


def _hash(label: str) -> str:
    return blake2b(label.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


@dataclass
class Folders:
    """The folders of the classes in a target folder. A class keeps its folder in later runs.

    Args:
        is_taken: whether a name belongs to something in the target folder that is not a folder.
        ambiguous: labels that several classes share; their folders are named by label and class index.

    Attributes:
        by_class: name of the folder of each class.
    """

    is_taken: Callable[[str], bool]
    ambiguous: frozenset[str] = frozenset()
    by_class: dict[ClassKey, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=lambda: {UNCERTAIN})

    def add(self, key: ClassKey, name: str) -> None:
        """Register the folder that an earlier run chose."""
        self.by_class[key] = name
        self._used.add(folded(name))

    def key_of(self, label: str, class_index: int) -> ClassKey:
        """Return what identifies the class: its label, and its index if the label is ambiguous."""
        return label, class_index if label in self.ambiguous else None

    def name_of(self, key: ClassKey) -> str:
        """Return the name of a class's folder. If another class has a name that differs in case only, add a hash."""
        if key not in self.by_class:
            label, class_index = key
            text = label if class_index is None else f"{label} ({class_index})"
            name = folder_name(text)
            if folded(name) in self._used or self.is_taken(name):
                name = with_hash(name, text)
            self.add(key, name)
        return self.by_class[key]
