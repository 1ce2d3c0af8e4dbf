"""Pictures: what is read, what is refused and before what cost, and the pixels that come of them."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimir.config import PrepareConfig
from unimir.data.image import Preprocess, decode_image, decode_stored, store_image

LIMITS = PrepareConfig(max_image_bytes=1_000_000, max_image_pixels=1_000_000, max_image_aspect=20.0)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A few kilobytes of PNG that would decode to width x height grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats(format: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (20, 10), (200, 30, 30)), format), LIMITS)
    assert image.mode == "RGB" and image.size == (20, 10)
    assert np.abs(np.asarray(image, int) - [200, 30, 30]).max() < 12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable image"),
        (b"not a picture", "unreadable image"),
        (encoded(Image.new("RGB", (30, 30)), "JPEG")[:200], "unreadable image"),
        (encoded(Image.effect_noise((300, 300), 50))[:5000], "unreadable image"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "image format not allowed"),
        (encoded(Image.new("RGB", (9, 9)), "PDF"), "image format not allowed"),
        (encoded(Image.new("RGB", (9, 9)), "EPS"), "image format not allowed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image format not allowed"),
        (b"<html></html>", "image format not allowed"),
        (bomb(10_000, 10_000), "image over the pixel limit"),
        (bomb(20_000, 20_000), "image over the pixel limit"),
        (bomb(2_000_000, 2_000_000), "image over the pixel limit"),
        (bytes(1_000_001), "image over the byte limit"),
        (encoded(Image.new("L", (5000, 1))), "image aspect over the limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # a PDF holds the time it was made
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        decode_image(data, LIMITS)
    assert str(error.value) == reason


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode_image(encoded(clear), LIMITS)).min() == 255
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert np.asarray(decode_image(encoded(palette, transparency=1), LIMITS)).min() == 255


def test_modes() -> None:
    grey16 = Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16))
    assert np.abs(np.asarray(decode_image(encoded(grey16), LIMITS), int) - 127).max() <= 1
    cmyk = decode_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), LIMITS)
    assert np.asarray(cmyk)[0, 0, 0] > 200 and np.asarray(cmyk)[0, 0, 1] < 60
    assert decode_image(encoded(Image.new("1", (4, 4), 1)), LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_deep_grey_with_a_transparent_colour_is_scaled() -> None:
    deep = Image.fromarray(np.array([[0, 25443, 65535]], np.uint16))
    found = decode_image(encoded(deep, transparency=7), PrepareConfig())
    assert np.asarray(found)[0, :, 0].tolist() == pytest.approx([0, 99, 255], abs=1)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_damaged_note_of_a_camera_costs_no_picture(format: str) -> None:
    data = encoded(Image.new("RGB", (9, 5), (200, 0, 0)), format, exif=b"garbage!!")
    assert decode_image(data, PrepareConfig()).size == (9, 5)


def test_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = decode_image(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif), LIMITS)
    assert image.size == (10, 20)


def test_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_draft_keeps_enough() -> None:
    data = encoded(Image.new("RGB", (800, 600), "red"), "JPEG")
    image = decode_image(data, LIMITS, target=64)
    assert 128 <= min(image.size) < 600
    assert image.width / image.height == pytest.approx(4 / 3, rel=0.02)


@pytest.mark.parametrize(
    ("size", "stored", "format"), [(64, (85, 64), "PNG"), (128, (171, 128), "JPEG"), (900, (800, 600), "JPEG")]
)
def test_stored_form(size: int, stored: tuple[int, int], format: str) -> None:
    kept = Image.open(io.BytesIO(store_image(Image.new("RGB", (800, 600), "red"), size)))
    assert kept.size == stored and kept.format == format


@pytest.mark.parametrize("size", [(64, 64), (200, 64), (17, 300), (1, 1), (65, 63), (3, 50)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_pixels_have_one_shape(size: tuple[int, int], crop_pct: float) -> None:
    rules = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=crop_pct)
    image = Image.new("RGB", size, (10, 20, 30))
    for pixels in (rules.pixels(image), rules.random_pixels(image, np.random.default_rng(0), 0.3)):
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        assert (pixels == [10, 20, 30]).all()


def test_centre_crop_is_the_centre() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    assert Preprocess(size=50, mean=(0.5,) * 3, std=(0.5,) * 3).pixels(image)[:, 2:-2].min() > 250


def test_random_crops_repeat_with_their_seed(picture: Callable[..., bytes]) -> None:
    rules = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    image = decode_image(picture(3, (60, 50)), LIMITS)
    first, again, other = (rules.random_pixels(image, np.random.default_rng(seed), 0.2) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop_pct": 0.0}, {"interpolation": "magic"}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="preprocess"):
        Preprocess(**{"size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, **wrong})


@pytest.mark.parametrize(("side", "aspect"), [(64, 1.78), (128, 1.78)])
def test_what_was_within_its_limits_can_be_read_once_stored(side: int, aspect: float) -> None:
    """A rounded side carries 16 by 9 beyond 1.78."""
    limits = PrepareConfig(max_image_aspect=aspect)
    given = encoded(Image.new("RGB", (1920, 1080), (200, 30, 30)), "JPEG")
    stored = store_image(decode_image(given, limits, target=side), side)
    image = decode_stored(stored)
    assert max(image.size) > aspect * min(image.size)
    assert min(image.size) == side == min(decode_stored(stored, target=side // 2).size)
