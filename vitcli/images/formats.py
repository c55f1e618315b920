"""Which image formats are read, and the suffixes of their files."""

from __future__ import annotations

from PIL import Image

from vitcli.images.kinds import HEIF, reads_heif

# Pillow's format names -> the suffixes that a directory scan looks for. MPO arrives through JPEG.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "DIB": (),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
# Formats that run other programs, or only name an image: never opened, not even with "all".
NEVER = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "PALM"})


def allowed_formats(formats: str) -> list[str]:
    """Return the formats that may be opened, as Pillow calls them: "common" ones, or "all"."""
    Image.init()
    names = [*Image.OPEN] if formats == "all" else [*FORMATS]
    return [name for name in names if name in Image.OPEN and name not in NEVER]


def suffixes(formats: str) -> frozenset[str]:
    """Return the lower-case suffixes of the images that a directory scan takes."""
    heif = HEIF if reads_heif() else ()
    if formats == "all":
        names = set(allowed_formats("all"))
        known = Image.registered_extensions().items()
        return frozenset(heif).union(s for s, name in known if name in names)
    return frozenset(suffix for group in (*FORMATS.values(), heif) for suffix in group)
