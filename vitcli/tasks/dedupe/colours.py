"""The colour space of an image, as far as it changes how its numbers are seen.

Numbers without a colour space are seen as sRGB, so an embedded sRGB profile changes nothing. A
profile (ICC.1:2022, https://www.color.org/specification/ICC.1-2022-05.pdf) is sRGB if its three
primaries and its curves are those of sRGB, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import struct

from vitcli.images.decode import Picture

# Red, green and blue of sRGB as XYZ, adapted to D50 as profiles have them.
PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of sRGB, in the chunk cHRM
GAMMA = 1 / 2.2
CLOSE = 0.004
STEPS = (0.25, 0.5, 0.75)  # where curves are compared


def colours_of(image: Picture) -> str:
    """Describe the colour space of an image; empty for sRGB, and where none is given."""
    profile = image.info.get("icc_profile")
    if profile:
        return "" if is_srgb(profile) else hashlib.sha256(profile).hexdigest()
    if image.format != "PNG" or "srgb" in image.info:
        return ""
    gamma = image.info.get("gamma", GAMMA)
    points = image.info.get("chromaticity", CHROMATICITY)
    is_usual = abs(gamma - GAMMA) < CLOSE and _are_close(points, CHROMATICITY)
    return "" if is_usual else repr((gamma, points))


def is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile, of colours or of grey, is sRGB. One that cannot be told is not."""
    try:
        space, (count,) = profile[16:20], struct.unpack_from(">I", profile, 128)
        tags = {}
        for number in range(min(count, 100)):
            name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
            tags[name] = profile[start : start + size]
        if b"A2B0" in tags:  # a table of colours overrides the curves
            return False
        if space == b"GRAY":
            return _is_curve(tags[b"kTRC"])
        return space == b"RGB " and all(
            _are_close(_fixed(tags[name], 8, 3), primary)
            and _is_curve(tags[name.replace(b"XYZ", b"TRC")])
            for name, primary in PRIMARIES.items()
        )
    except (struct.error, KeyError, IndexError, ValueError, TypeError, ArithmeticError):
        return False


def _is_curve(tag: bytes) -> bool:
    """Whether a tone curve is that of sRGB (IEC 61966-2-1)."""
    return _are_close(
        [_curve(tag, x) for x in STEPS], [((x + 0.055) / 1.055) ** 2.4 for x in STEPS]
    )


def _curve(tag: bytes, x: float) -> float:
    """The value of a tone curve at x, above the linear part of a parametric one."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        values = _fixed(tag, 12, (1, 3, 4, 5, 7)[kind])
        g, a, b = values[0], *(values[1:3] or (1.0, 0.0))
        added = {2: 3, 4: 5}.get(kind)
        return float((a * x + b) ** g + (values[added] if added else 0.0))
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return x
    table = struct.unpack_from(f">{count}H", tag, 12)
    if count == 1:
        return float(x ** (table[0] / 256))
    place = x * (count - 1)
    low = int(place)
    return float(table[low] + (table[low + 1] - table[low]) * (place - low)) / 65535


def _fixed(tag: bytes, start: int, count: int) -> tuple[float, ...]:
    """Numbers of 16 bits before and 16 after the point."""
    return tuple(n / 65536 for n in struct.unpack_from(f">{count}i", tag, start))


def _are_close(a: object, b: object) -> bool:
    return all(abs(x - y) < CLOSE for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]
