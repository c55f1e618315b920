"""The names of the pictures of images: `cat.png` for `cat.jpg`, unless two would meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MAX_FOLDERS = 64  # folders whose names are remembered


@dataclass(slots=True)
class PictureNames:
    """Chooses the names from the folder of an image, not from the images of a run, so that shards
    and later runs choose alike. `is_image` tells whether a file name is that of an image."""

    is_image: Callable[[str], bool]
    _meeting: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)

    def of(self, path: str, into: Path) -> str:
        """The name of an image's picture in the folder `into`, without the picture's own suffix:
        that of the image without its suffix. It keeps the suffix if another image in the image's
        folder is called alike, or anything there is called so already; if the folder cannot be
        listed; and if the picture would lie in it, among the images."""
        image = Path(path)
        if not image.suffix or not self.is_image(image.name):
            return image.name
        try:
            meeting = self._meeting_in(image.parent)
            is_among = into.exists() and into.samefile(image.parent)
        except (OSError, ValueError):
            return image.name
        return image.name if is_among or image.stem.casefold() in meeting else image.stem

    def _meeting_in(self, folder: Path) -> frozenset[str]:
        """The names without suffix that more than one file of a folder would take, whatever their
        case: some file systems do not tell it."""
        place = str(folder), folder.stat().st_mtime_ns
        if place not in self._meeting:
            files = [Path(file.name.casefold()) for file in folder.iterdir()]
            stems = Counter(file.stem for file in files if self.is_image(file.name))
            several = {stem for stem, count in stems.items() if count > 1}
            if len(self._meeting) >= MAX_FOLDERS:
                del self._meeting[next(iter(self._meeting))]
            names = {file.name for file in files}
            self._meeting[place] = frozenset(several.union(stems.keys() & names))
        return self._meeting[place]
