"""The twenty objects the sample catalog draws, as polygons and lines in a box from -1 to 1.

Knows outlines and the few fixed colours inside them. Does not know colours, patterns, scenes or pictures.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DARK = (28, 24, 30)
_CREAM = (255, 243, 214)
_BULB = (255, 170, 30)
_LEAF = (60, 140, 60)
_BARK = (84, 58, 42)

Points = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
_ARC_POINTS = 28


class Part(NamedTuple):
    """One polygon or line of an object in a box from -1 to 1; role is body, hole, fixed or line."""

    role: str
    points: Points
    fill: Colour = DARK


def _poly(role: str, *corners: tuple[float, float], fill: Colour = DARK) -> Part:
    return Part(role, np.array(corners, dtype=np.float64), fill)


def _oval(
    role: str,
    x: float,
    y: float,
    rx: float,
    ry: float,
    *,
    tilt: float = 0.0,
    fill: Colour = DARK,
    start: float = 0.0,
    stop: float = 360.0,
) -> Part:
    angle = np.radians(np.linspace(start, stop, _ARC_POINTS))
    px, py = rx * np.cos(angle), ry * np.sin(angle)
    turn = math.radians(tilt)
    points = np.stack([x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)], 1)
    return Part(role, points, fill)


def _star() -> list[Part]:
    corners = []
    for step in range(10):
        radius, angle = (1.0 if step % 2 == 0 else 0.46), math.pi * (step / 5 - 0.5)
        corners.append((radius * math.cos(angle), radius * math.sin(angle) + 0.06))
    return [_poly("body", *corners)]


def _heart() -> list[Part]:
    t = np.linspace(0, 2 * math.pi, 40)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return [Part("body", np.stack([x, y], 1))]


def _house() -> list[Part]:
    return [
        _poly("body", (0.42, -0.9), (0.68, -0.9), (0.68, -0.2), (0.42, -0.2)),
        _poly("body", (-0.75, 0.9), (-0.75, -0.1), (-1, -0.1), (0, -0.95), (1, -0.1), (0.75, -0.1), (0.75, 0.9)),
        _poly("fixed", (-0.2, 0.9), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.9)),
        _poly("line", (-0.9, -0.08), (0.9, -0.08)),
    ]


def _tree() -> list[Part]:
    crown = [(0.0, -0.5, 0.5), (-0.48, -0.1, 0.46), (0.48, -0.1, 0.46), (0.0, 0.05, 0.46)]
    trunk = _poly("fixed", (-0.17, 0.2), (0.17, 0.2), (0.24, 1), (-0.24, 1), fill=_BARK)
    return [trunk, *(_oval("body", x, y, r, r) for x, y, r in crown)]


def _car() -> list[Part]:
    shell = [(-1, 0.42), (-1, 0), (-0.62, -0.06), (-0.38, -0.52), (0.36, -0.52), (0.62, -0.06), (1, 0.04), (1, 0.42)]
    return [
        _poly("body", *shell),
        _poly("fixed", (-0.42, -0.08), (-0.28, -0.38), (-0.06, -0.38), (-0.06, -0.08), fill=_CREAM),
        _poly("fixed", (0.06, -0.08), (0.06, -0.38), (0.27, -0.38), (0.43, -0.08), fill=_CREAM),
        *(_oval("fixed", x, 0.44, 0.25, 0.25) for x in (-0.52, 0.52)),
        *(_oval("fixed", x, 0.44, 0.1, 0.1, fill=_CREAM) for x in (-0.52, 0.52)),
    ]


def _fish() -> list[Part]:
    return [
        _poly("body", (0.35, 0), (1, -0.55), (0.86, 0), (1, 0.55)),
        _poly("body", (-0.2, -0.4), (0.2, -0.72), (0.3, -0.3)),
        _oval("body", -0.2, 0, 0.8, 0.48),
        _oval("fixed", -0.62, -0.1, 0.13, 0.13, fill=_CREAM),
        _oval("fixed", -0.64, -0.1, 0.07, 0.07),
    ]


def _boat() -> list[Part]:
    return [
        _poly("body", (-1, 0.4), (1, 0.4), (0.62, 0.95), (-0.62, 0.95)),
        _poly("body", (0.1, -1), (0.1, 0.18), (0.85, 0.18)),
        _poly("body", (-0.1, -0.7), (-0.1, 0.18), (-0.7, 0.18)),
        _poly("line", (0, -1), (0, 0.5)),
    ]


def _flower() -> list[Part]:
    stem = [_poly("fixed", (-0.06, 0.3), (0.06, 0.3), (0.06, 1.05), (-0.06, 1.05), fill=_LEAF)]
    leaf = [_oval("fixed", 0.3, 0.86, 0.28, 0.12, tilt=-30, fill=_LEAF)]
    petals = [
        _oval("body", 0.48 * math.cos(a), 0.48 * math.sin(a) - 0.25, 0.31, 0.31)
        for a in np.linspace(0, 2 * math.pi, 6)[:-1] - math.pi / 2
    ]
    return [*stem, *leaf, *petals, _oval("body", 0, -0.25, 0.4, 0.4), _oval("fixed", 0, -0.25, 0.22, 0.22, fill=_BULB)]


def _cat() -> list[Part]:
    whiskers = [_poly("line", (0.25 * s, 0.3), (1.05 * s, y)) for s in (-1, 1) for y in (0.16, 0.42)]
    eyes = [_oval("fixed", 0.34 * s, -0.02, 0.17, 0.17, fill=_CREAM) for s in (-1, 1)]
    pupils = [_oval("fixed", 0.34 * s, -0.02, 0.07, 0.15) for s in (-1, 1)]
    return [
        _poly("body", (-0.84, -1), (-0.22, -0.5), (-0.8, 0.1)),
        _poly("body", (0.84, -1), (0.22, -0.5), (0.8, 0.1)),
        _oval("body", 0, 0.15, 0.86, 0.74),
        *whiskers,
        *eyes,
        *pupils,
        _poly("fixed", (-0.14, 0.26), (0.14, 0.26), (0, 0.44), fill=(240, 130, 150)),
    ]


def _cup() -> list[Part]:
    return [
        _oval("body", 0.6, 0.05, 0.42, 0.44),
        _oval("hole", 0.6, 0.05, 0.2, 0.22),
        _poly("body", (-0.85, -0.6), (0.55, -0.6), (0.4, 0.85), (-0.7, 0.85)),
        _oval("fixed", -0.15, -0.6, 0.7, 0.17),
        _oval("fixed", -0.15, -0.58, 0.56, 0.1, fill=_CREAM),
    ]


def _key() -> list[Part]:
    return [
        _oval("body", -0.52, 0, 0.5, 0.5),
        _poly("body", (-0.1, -0.17), (1, -0.17), (1, 0.17), (-0.1, 0.17)),
        _poly("body", (0.7, 0), (1, 0), (1, 0.58), (0.7, 0.58)),
        _poly("body", (0.26, 0), (0.52, 0), (0.52, 0.46), (0.26, 0.46)),
        _oval("hole", -0.56, 0, 0.19, 0.19),
    ]


def _umbrella() -> list[Part]:
    dome = [(math.cos(a), 0.95 * math.sin(a) + 0.1) for a in np.linspace(math.pi, 2 * math.pi, 24)]
    scallops = []
    for centre in (0.667, 0.0, -0.667):
        scallops += [(centre + 0.333 * math.cos(a), 0.1 - 0.2 * math.sin(a)) for a in np.linspace(0, math.pi, 8)]
    hook = _oval("line", 0.18, 0.8, 0.18, 0.2, start=180, stop=0)
    return [
        _poly("line", (0, -1), (0, 0.8)),
        hook,
        _poly("body", *dome, *scallops),
        _poly("line", (0, -0.85), (-0.33, 0.08)),
        _poly("line", (0, -0.85), (0.33, 0.08)),
    ]


def _butterfly() -> list[Part]:
    upper = [_oval("body", 0.52 * s, -0.34, 0.56, 0.4, tilt=-38 * s) for s in (-1, 1)]
    lower = [_oval("body", 0.42 * s, 0.42, 0.42, 0.3, tilt=40 * s) for s in (-1, 1)]
    feelers = [_poly("line", (0, -0.45), (0.3 * s, -1)) for s in (-1, 1)]
    return [*upper, *lower, *feelers, _oval("fixed", 0, 0.02, 0.11, 0.6)]


def _balloon() -> list[Part]:
    string = _poly("line", (0, 0.4), (0.1, 0.62), (-0.1, 0.84), (0.06, 1.1))
    return [string, _poly("body", (0, 0.28), (0.2, 0.56), (-0.2, 0.56)), _oval("body", 0, -0.32, 0.62, 0.72)]


def _kite() -> list[Part]:
    bows = [
        _poly("fixed", (x - 0.2, y - 0.12), (x - 0.2, y + 0.12), (x + 0.2, y - 0.12), (x + 0.2, y + 0.12))
        for x, y in ((0.1, 0.68), (-0.02, 1.0))
    ]
    return [
        _poly("line", (0, 0.4), (0.12, 0.7), (-0.04, 1.1)),
        *bows,
        _poly("body", (0, -1), (0.72, -0.35), (0, 0.5), (-0.72, -0.35)),
        _poly("line", (0, -1), (0, 0.5)),
        _poly("line", (-0.72, -0.35), (0.72, -0.35)),
    ]


def _bottle() -> list[Part]:
    glass = [
        (-0.15, -0.75),
        (0.15, -0.75),
        (0.15, -0.35),
        (0.44, -0.05),
        (0.44, 1),
        (-0.44, 1),
        (-0.44, -0.05),
        (-0.15, -0.35),
    ]
    return [_poly("body", *glass), _poly("fixed", (-0.2, -1), (0.2, -1), (0.2, -0.74), (-0.2, -0.74))]


def _bell() -> list[Part]:
    side = [(0.18, -0.8), (0.44, -0.6), (0.56, -0.2), (0.62, 0.3), (0.95, 0.6)]
    return [
        _oval("fixed", 0, 0.72, 0.24, 0.24, fill=_BULB),
        _oval("body", 0, -0.82, 0.2, 0.2),
        _poly("body", *side, *[(-x, y) for x, y in reversed(side)]),
        _poly("line", (-0.66, 0.34), (0.66, 0.34)),
    ]


def _candle() -> list[Part]:
    flame = [(0, -1.05), (0.2, -0.68), (0.12, -0.46), (-0.12, -0.46), (-0.2, -0.68)]
    return [
        _poly("fixed", *flame, fill=_BULB),
        _poly("line", (0, -0.5), (0, -0.25)),
        _poly("body", (-0.32, -0.28), (0.32, -0.28), (0.32, 0.8), (-0.32, 0.8)),
        _poly("fixed", (-0.72, 0.74), (0.72, 0.74), (0.5, 1), (-0.5, 1)),
    ]


def _apple() -> list[Part]:
    return [
        _poly("fixed", (-0.07, -0.4), (0.0, -0.95), (0.14, -0.95), (0.07, -0.4), fill=_BARK),
        _oval("body", -0.32, 0.2, 0.54, 0.7),
        _oval("body", 0.32, 0.2, 0.54, 0.7),
        _oval("fixed", 0.42, -0.7, 0.34, 0.16, tilt=-25, fill=_LEAF),
    ]


def _book() -> list[Part]:
    cover = [(0, -0.45), (0.45, -0.66), (1, -0.55), (1, 0.62), (0.45, 0.52), (0, 0.72)]
    pages = [(0, 0.72), (0.45, 0.54), (1, 0.64), (1, 0.76), (0.45, 0.68), (0, 0.88)]
    mirrored = [(-x, y) for x, y in cover]
    return [
        _poly("fixed", *pages, fill=_CREAM),
        _poly("fixed", *[(-x, y) for x, y in pages], fill=_CREAM),
        _poly("body", *cover),
        _poly("body", *mirrored),
        _poly("line", (0, -0.45), (0, 0.85)),
    ]


SHAPES: dict[str, Callable[[], list[Part]]] = {
    "star": _star,
    "heart": _heart,
    "house": _house,
    "tree": _tree,
    "car": _car,
    "fish": _fish,
    "boat": _boat,
    "flower": _flower,
    "cat": _cat,
    "cup": _cup,
    "key": _key,
    "umbrella": _umbrella,
    "butterfly": _butterfly,
    "balloon": _balloon,
    "kite": _kite,
    "bottle": _bottle,
    "bell": _bell,
    "candle": _candle,
    "apple": _apple,
    "book": _book,
}


@functools.cache
def parts(name: str) -> tuple[Part, ...]:
    return tuple(SHAPES[name]())
