"""Draw one 64x64 picture of coloured, patterned objects in front of a scene.

Knows colours, patterns, backgrounds and layout. Does not know languages, captions, files or how items are chosen.
"""

import functools
import math
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from unimir.data import shapes

SIDE = 64
_FULL = SIDE * 2  # drawn at twice the size and averaged down, which smooths edges
_SKY_BANDS = 16
_REPEAT = 14.0  # pixels from one stripe or dot to the next: wide enough to show, three to the smallest object
_HALO = (246, 246, 240)

Mask = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]
Pen = ImageDraw.ImageDraw

# Each colour with the contrast its stripes and dots use; contrasts keep the named colour dominant.
PAINTS: dict[str, tuple[Colour, Colour]] = {
    "red": ((214, 28, 36), (255, 222, 214)),
    "blue": ((30, 76, 222), (206, 224, 255)),
    "green": ((24, 152, 52), (212, 250, 196)),
    "yellow": ((252, 216, 20), (226, 116, 0)),
    "black": ((22, 22, 24), (226, 214, 240)),
    "white": ((250, 250, 250), (204, 140, 226)),
    "grey": ((134, 136, 140), (238, 238, 240)),
    "brown": ((122, 68, 28), (244, 206, 160)),
}


class _Canvas:
    """A picture in the making: one palette index per pixel, which is quicker to fill than colours."""

    def __init__(self) -> None:
        self.sheet = Image.new("L", (_FULL, _FULL))
        self.pen = ImageDraw.Draw(self.sheet)
        self.palette: list[Colour] = [(0, 0, 0)]
        self._inks: dict[Colour, int] = {}

    def ink(self, colour: Colour) -> int:
        if colour not in self._inks:
            self._inks[colour] = len(self.palette)
            self.palette.append(colour)
        return self._inks[colour]

    def polygon(self, points: Sequence[float], colour: Colour) -> None:
        self.pen.polygon(points, fill=self.ink(colour))

    def line(self, points: Sequence[float], colour: Colour, width: int) -> None:
        self.pen.line(points, fill=self.ink(colour), width=width)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.pen.rectangle((left, top, right, bottom), fill=self.ink(colour))

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=self.ink(colour))

    def sky(self, top: Colour, low: Colour) -> None:
        for band in range(_SKY_BANDS):
            share, y = band / (_SKY_BANDS - 1), band * _FULL / _SKY_BANDS
            red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, low, strict=True))
            self.box(0, y, _FULL, y + _FULL / _SKY_BANDS, (red, green, blue))

    def hills(self, level: float, height: float, colour: Colour, rng: np.random.Generator) -> None:
        """A smooth random ridge filled down to the bottom edge."""
        wave, phase = 0.03 + 0.04 * rng.random(), 6.28 * rng.random()
        ridge: list[float] = []
        for x in range(0, _FULL + 8, 8):
            ridge += (x, level - height * math.sin(x * wave + phase))
        self.polygon((*ridge, _FULL, _FULL, 0, _FULL), colour)


def draw(thing: str, colour: str, count: int, pattern: str, scene: str, rng: np.random.Generator) -> bytes:
    """PNG bytes of `count` such objects, none overlapping, at random places in a random view of the scene."""
    canvas = _Canvas()
    _SCENES[scene](canvas, rng)
    body, edge, inner = (Image.new("L", (_FULL, _FULL)) for _ in range(3))
    pens = (ImageDraw.Draw(body), ImageDraw.Draw(edge), ImageDraw.Draw(inner))
    for x, y, half in _places(count, rng):
        _stamp(thing, x, y, half, canvas, pens, rng)
    inside = np.asarray(body).view(np.bool_)
    dark = _widen(inside | np.asarray(edge).view(np.bool_), 2)
    pixels = np.array(canvas.sheet)
    paint, contrast = (canvas.ink(_shade(tone, rng, 9)) for tone in PAINTS[colour])
    np.putmask(pixels, _widen(dark, 2), canvas.ink(_HALO))
    np.putmask(pixels, dark, canvas.ink(shapes.DARK))
    np.putmask(pixels, inside, paint)
    if pattern != "solid":
        np.putmask(pixels, inside & _marks(pattern, rng), contrast)
    details = np.asarray(inner)
    np.putmask(pixels, details > 0, details)
    sheet = Image.fromarray(pixels)
    sheet.putpalette([channel for tone in canvas.palette for channel in tone])
    return _png(sheet.convert("RGB").reduce(2))


def _png(picture: Image.Image) -> bytes:
    """The picture as PNG with unfiltered rows, which for flat colours is smaller and quicker than Pillow's own."""
    wide, high = picture.size
    pixels = np.asarray(picture).reshape(high, wide * 3)
    rows = np.concatenate([np.zeros((high, 1), np.uint8), pixels], axis=1)
    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre and half size of each object; one object may be large, several share a two by two grid."""
    if count == 1:
        half = float(rng.uniform(26, 44))
        edge = half * 1.12 + 5
        return [(float(rng.uniform(edge, _FULL - edge)), float(rng.uniform(edge, _FULL - edge)), half)]
    cell = _FULL / 2
    places = []
    for spot in rng.permutation(4)[:count]:
        half = float(rng.uniform(20.5, 25.5))
        slack = max(cell / 2 - half * 1.08 - 3, 0.5)
        x, y = rng.uniform(-slack, slack, 2)
        places.append((cell * (spot % 2 + 0.5) + float(x), cell * (spot // 2 + 0.5) + float(y), half))
    return places


def _stamp(
    thing: str, x: float, y: float, half: float, canvas: _Canvas, pens: tuple[Pen, Pen, Pen], rng: np.random.Generator
) -> None:
    """Draw one object's parts; its edge holds lines only thinly, so that the outline stays thin around them."""
    body, edge, inner = pens
    turn = math.radians(28 * rng.random() - 14)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = half * math.cos(turn), half * math.sin(turn)
    matrix = np.array([[flip * cos, flip * sin], [-sin, cos]])
    for role, points, fill in shapes.parts(thing):
        flat = (points @ matrix + (x, y)).ravel().tolist()
        if role == "body":
            body.polygon(flat, fill=1)
        elif role == "hole":
            body.polygon(flat, fill=0)
        elif role == "fixed":
            edge.polygon(flat, fill=1)
            inner.polygon(flat, fill=canvas.ink(fill))
        else:
            edge.line(flat, fill=1, width=1)
            inner.line(flat, fill=canvas.ink(fill), width=3)


def _widen(mask: Mask, reach: int) -> Mask:
    """The mask grown by `reach` pixels on every side."""
    tall = mask.copy()
    for step in range(1, reach + 1):
        tall[step:] |= mask[:-step]
        tall[:-step] |= mask[step:]
    wide = tall.copy()
    for step in range(1, reach + 1):
        wide[:, step:] |= tall[:, :-step]
        wide[:, :-step] |= tall[:, step:]
    return wide


@functools.cache
def _grid() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rows, columns = np.mgrid[0:_FULL, 0:_FULL].astype(np.float32)
    return columns, rows


def _marks(pattern: str, rng: np.random.Generator) -> Mask:
    """Where the pattern's contrast colour goes, at a random angle and shift."""
    x, y = _grid()
    angle, along, across = math.pi * rng.random(), rng.random(), rng.random()
    cos, sin = np.float32(math.cos(angle) / _REPEAT), np.float32(math.sin(angle) / _REPEAT)
    u = x * cos + y * sin + np.float32(along)
    u -= np.floor(u)
    if pattern == "striped":
        return u < np.float32(0.4)
    v = y * cos - x * sin + np.float32(across)
    v -= np.floor(v)
    u, v = u - np.float32(0.5), v - np.float32(0.5)
    return u * u + v * v < np.float32(0.096)


def _shade(colour: Colour, rng: np.random.Generator, spread: int = 12) -> Colour:
    """The colour with each channel off by at most `spread`."""
    red, green, blue = (
        min(max(c + round((2 * d - 1) * spread), 0), 255) for c, d in zip(colour, rng.random(3).tolist(), strict=True)
    )
    return red, green, blue


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return low + (high - low) * rng.random()


def _beach(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((120, 200, 240), rng), _shade((190, 230, 248), rng))
    horizon, shore = _between(30, 50, rng), _between(66, 86, rng)
    canvas.disc(_between(10, 118, rng), _between(6, 24, rng), 10, (255, 244, 150))
    canvas.box(0, horizon, _FULL, _FULL, _shade((40, 150, 190), rng))
    for _ in range(7):
        x, y = _between(0, 110, rng), _between(horizon + 4, shore - 8, rng)
        canvas.line((x, y, x + 16, y), (150, 215, 232), 2)
    canvas.hills(shore - 3, 4, (240, 250, 250), rng)
    canvas.hills(shore + 2, 4, _shade((238, 214, 158), rng), rng)


def _forest(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((96, 140, 104), rng), _shade((58, 100, 62), rng))
    for spot in rng.permutation(10).tolist()[:8]:
        left, wide, foot = spot * 13 + 8 * rng.random(), _between(1.5, 3, rng), _between(86, 112, rng)
        canvas.box(left - wide, 20, left + wide, foot, _shade((74, 60, 44), rng))
        tone, top = _shade((36, 84, 46), rng, 14), _between(-16, 20, rng)
        for tier in range(3):
            base = top + 24 + tier * 17
            canvas.polygon((left, base - 26, left - 9 - 3 * tier, base, left + 9 + 3 * tier, base), tone)
    canvas.hills(106, 3, _shade((52, 82, 36), rng), rng)


def _city(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((170, 178, 196), rng), _shade((214, 206, 206), rng))
    left = _between(-14, 0, rng)
    while left < _FULL:
        wide, top = _between(16, 28, rng), _between(6, 62, rng)
        canvas.box(left, top, left + wide - 2, 104, _shade((112, 112, 134), rng, 18))
        for y in range(int(top) + 5, 98, 11):
            for x in range(int(left) + 4, int(left + wide) - 6, 7):
                canvas.box(x, y, x + 2, y + 4, (250, 226, 140) if rng.random() < 0.55 else (66, 70, 92))
        left += wide
    canvas.box(0, 104, _FULL, _FULL, _shade((78, 78, 84), rng, 6))
    for x in range(-int(20 * rng.random()), _FULL, 26):
        canvas.box(x, 114, x + 13, 117, (226, 222, 200))


def _snow(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((158, 186, 222), rng), _shade((214, 226, 242), rng))
    for spot in rng.permutation(3).tolist():
        peak, wide, top = spot * 44 + _between(4, 36, rng), _between(36, 52, rng), _between(4, 34, rng)
        canvas.polygon((peak, top, peak - wide, 92, peak + wide, 92), _shade((104, 124, 162), rng))
        cap = wide * 26 / (92 - top)
        teeth = (peak - cap, top + 26, peak - cap / 3, top + 18, peak + cap / 4, top + 28, peak + cap, top + 26)
        canvas.polygon((peak, top, *teeth), (248, 250, 255))
    canvas.hills(88, 5, _shade((230, 238, 248), rng, 6), rng)
    for _ in range(26):
        canvas.disc(_FULL * rng.random(), _FULL * rng.random(), 1.6, (255, 255, 255))


def _desert(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((250, 176, 104), rng), _shade((254, 222, 160), rng))
    canvas.disc(_between(16, 112, rng), _between(10, 34, rng), 13, (255, 240, 190))
    level = _between(46, 62, rng)
    for step, tone in enumerate(((222, 150, 84), (206, 128, 66), (190, 110, 54))):
        canvas.hills(level + 24 * step, 8, _shade(tone, rng), rng)
    for _ in range(2):
        x, foot, tone = _between(6, 122, rng), _between(70, 116, rng), (88, 122, 70)
        canvas.box(x - 3, foot - 34, x + 3, foot, tone)
        canvas.line((x - 11, foot - 28, x - 11, foot - 16, x + 11, foot - 16, x + 11, foot - 26), tone, 5)


def _night(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.sky(_shade((10, 12, 44), rng), _shade((44, 36, 96), rng))
    for _ in range(34):
        canvas.disc(_FULL * rng.random(), _FULL * rng.random(), _between(0.8, 2.0, rng), (252, 248, 220))
    x, y = _between(16, 112, rng), _between(14, 34, rng)
    canvas.disc(x, y, 12, (246, 236, 190))
    canvas.disc(x + 6, y - 3, 10, (16, 16, 52))
    canvas.hills(_between(108, 118, rng), 5, (18, 16, 40), rng)


_SCENES: dict[str, Callable[[_Canvas, np.random.Generator], None]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
}
