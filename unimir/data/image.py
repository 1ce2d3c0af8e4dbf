"""Pictures: safe decoding, the stored form, and pixels for the image tower, the same offline and online.

Knows no corpus and no tensor: bytes in, Pillow images and uint8 arrays out.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from unimir.config import PrepareConfig

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_SMALL = 96  # up to this shorter side a lossless PNG costs little and keeps drawn edges sharp
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode_image(data: bytes, limits: PrepareConfig, *, target: int | None = None) -> Image.Image:
    """An RGB image, upright and on white; ValueError with a short reason. `target`: a shorter side that suffices."""
    with warnings.catch_warnings():
        # Pillow warns about bombs and odd metadata; the size check below decides, nothing must leak into the caller.
        warnings.simplefilter("ignore")
        if len(data) > limits.max_image_bytes:
            raise ValueError("image over the byte limit")
        image = _open(data)
        width, height = image.size
        if width * height > limits.max_image_pixels:
            raise ValueError("image over the pixel limit")
        if max(width, height) > limits.max_image_aspect * min(width, height):
            raise ValueError("image aspect over the limit")
        return _loaded(image, target)


def decode_stored(data: bytes, *, target: int | None = None) -> Image.Image:
    """As `decode_image`, of a picture that `store_image` has made: Pillow has no warning for it.

    So threads may do this together, which may not silence warnings: those are of the whole process. It was within its
    limits before it was stored: a rounded side or another format may have carried it beyond.
    """
    return _loaded(_open(data), target)


def _loaded(image: Image.Image, target: int | None) -> Image.Image:
    try:
        if target is not None and image.format == "JPEG":
            # The JPEG decoder shrinks by 2, 4 or 8 for free; twice the target leaves detail for the resize.
            width, height = image.size
            scale = 2 * target / min(width, height)
            if scale < 1:
                image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
        image.load()
        return upright(image)
    except Exception as error:  # broken files raise OSError, SyntaxError, struct.error, ...
        raise ValueError("unreadable image") from error


def upright(image: Image.Image) -> Image.Image:
    """An RGB image as a camera's note of its orientation turns it, on white."""
    with contextlib.suppress(Exception):  # of a damaged note, whatever Pillow raises: the picture may be whole
        image = ImageOps.exif_transpose(image)
    return _on_white(image)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError("image over the pixel limit") from error
    except Exception as error:
        known = data[:4] in (b"II*\0", b"MM\0*", b"%PDF", b"%!PS", b"\xc5\xd0\xd3\xc6", b"SIMP", b"8BPS")
        marked = known or data.lstrip()[:4].lower() in (b"<svg", b"<?xm", b"<htm", b"<!do") or b"ftyp" in data[4:12]
        raise ValueError("image format not allowed" if marked else "unreadable image") from error


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 and 32 bit grey: convert() would clip, not scale
        grey = np.asarray(image, dtype=np.float64)
        scale = 255.0 / 65535.0 if image.mode.startswith("I;16") or grey.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(grey * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def store_image(image: Image.Image, size: int) -> bytes:
    """Encoded bytes of the image, its shorter side shrunk to at most `size`."""
    shorter = min(image.size)
    if shorter > size:
        image = image.resize(_scaled(image.size, size / shorter), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if min(image.size) <= _SMALL:
        image.save(buffer, "PNG", compress_level=6)
    else:
        image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def preview_image(data: bytes, side: int) -> bytes:
    """A WebP of the picture whose longer side is at most `side`. ValueError as `decode_image` has it."""
    image = decode_image(data, PrepareConfig(), target=side)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=75, method=2)
    return buffer.getvalue()


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How the image tower's pixels are made; `mean` and `std` are applied by the tower to pixels / 255."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"preprocess size is {self.size}; must be positive")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"preprocess crop_pct is {self.crop_pct}; must be in (0, 1]")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"preprocess interpolation is {self.interpolation!r}; one of {', '.join(_FILTERS)}")

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """[size, size, 3]: the centre crop after resizing the shorter side to size / crop_pct."""
        shorter = max(self.size, round(self.size / self.crop_pct))
        if min(image.size) != shorter:
            image = image.resize(_scaled(image.size, shorter / min(image.size)), _FILTERS[self.interpolation])
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)), dtype=np.uint8)

    def random_pixels(self, image: Image.Image, rng: np.random.Generator, min_crop: float) -> npt.NDArray[np.uint8]:
        """[size, size, 3]: a random crop of area share in [min_crop, 1] and aspect 3/4 to 4/3, resized."""
        width, height = image.size
        for _ in range(10):
            area = width * height * rng.uniform(min_crop, 1.0)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < high <= height:
                left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
                box = (left, top, left + wide, top + high)
                square = image.resize((self.size, self.size), _FILTERS[self.interpolation], box=box)
                return np.asarray(square, dtype=np.uint8)
        return self.pixels(image)
