"""The image formats that are read, and descriptions of other files by first bytes and suffix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

from PIL import Image, features

from vitcli.errors import installing
from vitcli.records import ErrorType

# Pillow's format names -> the suffixes that a directory scan takes. MPO is opened as JPEG.
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
# The libraries behind Pillow's formats, as its `features` calls them; the first is preferred.
CODECS = {
    "JPEG": ("libjpeg_turbo", "jpg"),
    "PNG": ("zlib_ng", "zlib"),
    "WEBP": ("webp",),
    "TIFF": ("libtiff",),
    "AVIF": ("avif",),
    "JPEG2000": ("jpg_2000",),
}
# Not opened even with "all": formats that run other programs, or that Pillow only identifies.
NEVER = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "PALM"})
HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
EXPORT = "export it as JPEG or PNG"

# Suffix -> a program that reads such images, which a scan does not take.
UNREAD: Mapping[str, str] = {
    **dict.fromkeys(HEIF, "pillow-heif"),
    **dict.fromkeys(
        (
            *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq"),
            *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw"),
            *(".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f", ".gpr"),
        ),
        "a raw converter",
    ),
    **dict.fromkeys((".jxl",), "djxl"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".afphoto"), "an image editor"),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ai"), "a renderer of vector graphics"),
    **dict.fromkeys((".exr", ".hdr"), "a tone mapper"),
    **dict.fromkeys((".dcm", ".dicom"), "a DICOM converter"),
}

_HEIF_BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf MiHB MiHA MiHE".split()
)
_VIDEO_BRANDS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ")
_RAW = "a raw photograph"
_PREFIXES: tuple[tuple[bytes, str, str], ...] = (
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", EXPORT),
    (b"\xff\x0a", "JPEG XL", EXPORT),
    (b"8BPS", "PSD, Photoshop's own format", EXPORT),
    (b"gimp xcf", "XCF, GIMP's own format", EXPORT),
    (b"FUJIFILMCCD-RAW", f"RAF, {_RAW}", EXPORT),
    (b"FOVb", f"X3F, {_RAW}", EXPORT),
    (b"\0MRM", f"MRW, {_RAW}", EXPORT),
    (b"IIRO", f"ORF, {_RAW}", EXPORT),
    (b"IIRS", f"ORF, {_RAW}", EXPORT),
    (b"MMOR", f"ORF, {_RAW}", EXPORT),
    (b"IIU\0", f"RW2, {_RAW}", EXPORT),
    (b"II\x1a\0\0\0HEAPCCDR", f"CRW, {_RAW}", EXPORT),
    (b"II\xbc\x01", "JPEG XR", EXPORT),
    (b"v/1\x01", "OpenEXR", EXPORT),
    (b"#?RADIANCE", "Radiance HDR", EXPORT),
    (b"PF\n", "PFM in colour, 32-bit floats", EXPORT),
    (b"P7\n", "PAM", EXPORT),
    (b"\x1aE\xdf\xa3", "a video", "extract its frames"),
)


class ImageError(Exception):
    """The reason why one image has no pixels."""

    def __init__(self, type: ErrorType, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


@cache
def reads_heif() -> bool:
    """Whether the extra `heif` is installed."""
    return find_spec("pillow_heif") is not None


def allowed_formats(formats: str) -> list[str]:
    """Return the formats that may be opened, as Pillow calls them: "common" ones, or "all"."""
    Image.init()
    names = [*Image.OPEN] if formats == "all" else [*FORMATS]
    return [name for name in names if name in Image.OPEN and name not in NEVER]


def codecs() -> dict[str, str | None]:
    """Return the library that reads each compressed format, with its version; None if Pillow has
    been built without it."""
    found: dict[str, str | None] = {}
    for name, libraries in CODECS.items():
        there = (library for library in libraries if features.check(library))
        found[name] = next((f"{one} {features.version(one)}" for one in there), None)
    return {**found, "HEIF": _heif()}


def _heif() -> str | None:
    try:
        import pillow_heif
    except ImportError:
        return None
    return f"libheif {pillow_heif.libheif_version()}"


def suffixes(formats: str) -> frozenset[str]:
    """Return the lower-case suffixes of the images that a directory scan takes."""
    heif = HEIF if reads_heif() else ()
    if formats == "all":
        names = set(allowed_formats("all"))
        known = Image.registered_extensions().items()
        return frozenset(heif).union(s for s, name in known if name in names)
    return frozenset(suffix for group in (*FORMATS.values(), heif) for suffix in group)


def passed_over(counts: Mapping[str, int]) -> str:
    """Describe the images that a scan did not take, by suffix, and the programs that read them."""
    readers: dict[str, list[str]] = {}
    for suffix, count in sorted(counts.items()):
        readers.setdefault(UNREAD[suffix], []).append(f"{count:,} {suffix}")
    how = {"pillow-heif": f": {installing('heif')}"}
    parts = [
        f"{', '.join(counted)} ({reader} reads them{how.get(reader, '')})"
        for reader, counted in readers.items()
    ]
    total = sum(counts.values())
    subject = f"{total:,} image files were" if total > 1 else "1 image file was"
    return f"{subject} not looked at: {'; '.join(parts)}"


def unread(head: bytes) -> str | None:
    """Describe a file that is not read, and say what to do; return None for an unknown kind."""
    for prefix, kind, hint in _PREFIXES:
        if head.startswith(prefix):
            return f"{kind}: {hint}"
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    if head[128:132] == b"DICM":
        return f"DICOM: {EXPORT}"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        return f"SVG, a drawing: {EXPORT}"
    return None


def is_heif(head: bytes) -> bool:
    """Whether a file's first bytes are those of HEIC or another HEIF image, but not AVIF."""
    brands = _brands(head)
    return not _is_avif(brands) and bool(_HEIF_BRANDS.intersection(brands))


def _by_brands(head: bytes) -> str | None:
    brands = _brands(head)
    if brands and brands[0] == b"crx ":
        return f"CR3, {_RAW}: {EXPORT}"
    if is_heif(head):
        name = "HEIC" if _is_hevc(brands) else "HEIF"
        return f"{name} needs pillow-heif: {installing('heif')}"
    if brands and (brands[0] in _VIDEO_BRANDS or brands[0] == b"qt  "):
        return "a video: extract its frames"
    return None


def _is_avif(brands: tuple[bytes, ...]) -> bool:
    return brands[:1] in ((b"avif",), (b"avis",)) or (
        bool({b"avif", b"avis"}.intersection(brands)) and not _is_hevc(brands)
    )


def _is_hevc(brands: tuple[bytes, ...]) -> bool:
    return any(brand.startswith(b"he") for brand in brands)


def _brands(head: bytes) -> tuple[bytes, ...]:
    """Return the major brand of an ISO file, and its compatible brands."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4)))
