"""Every bad or odd picture gives one clear reason or the right pixels, and never much memory."""

import io
import pickle
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from captioner.config import Preprocessing
from captioner.images import BadImage, ImageLimits, decode_image, read_photo
from captioner.preprocess import load_pixels, resize

ORIENTATION = 0x0112
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **settings) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def scene(width: int = 160, height: int = 96) -> Image.Image:
    """Smooth and different in every corner, so that JPEG keeps it and a wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (width + height - 2)], axis=2)
    return Image.fromarray(rgb.astype(np.uint8))


JPEG = encoded(scene(), "JPEG", quality=95)
PNG = encoded(scene(), "PNG")
WEBP = encoded(scene(), "WEBP", lossless=True)
GIF = encoded(scene(), "GIF")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand; colour 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA; every row starts with its filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    image = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + image + chunk(b"IEND", b"")


def flat_png(bits: int, colour: int, pixel: bytes, *extra: bytes, side: int = 8) -> bytes:
    return png(side, side, bits, colour, (b"\0" + pixel * side) * side, *extra)


def flat_webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour: its 30-odd bytes are the same for any size but for the size."""
    data = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True, method=0, quality=0)
    return data[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[25:]


def many_scans(side: int, scans: int) -> bytes:
    """A legal progressive grey JPEG that goes over all its pixels again for every bit of every frequency."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    blocks = (side // 8) ** 2
    one_code = bytes([1] + [0] * 15)
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    out += segment(0xC4, b"\x00" + one_code + b"\x00") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    out += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + packed("0" * blocks)
    whole_picture = packed(("0" + "1" * 14) * (blocks // 32767) + "0" + "0" * 14)
    steps = [(k, bit) for k in range(1, 64) for bit in range(13, -1, -1)][: scans - 1]
    for k, bit in steps:
        out += segment(0xDA, bytes([1, 1, 0, k, k, (0 if bit == 13 else bit + 1) << 4 | bit])) + whole_picture
    return out + b"\xff\xd9"


def middle_replaced(data: bytes, junk: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + junk + data[half + len(junk) :]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


BAD = {
    "empty": (b"", "EMPTY_IMAGE", "0 bytes"),
    "one byte": (b"x", "UNSUPPORTED_FORMAT", "not JPEG, PNG, WebP or GIF"),
    "random": (np.random.default_rng(0).bytes(5000), "UNSUPPORTED_FORMAT", "starts with"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "UNSUPPORTED_FORMAT", "<svg"),
    "html": (b"<!doctype html><html></html>", "UNSUPPORTED_FORMAT", "<!doctyp"),
    "pdf": (b"%PDF-1.7\n1 0 obj", "UNSUPPORTED_FORMAT", "%PDF-1.7"),
    "bmp": (encoded(scene(), "BMP"), "UNSUPPORTED_FORMAT", "BM"),
    "tiff": (encoded(scene(), "TIFF"), "UNSUPPORTED_FORMAT", "starts with"),
    "ppm": (encoded(scene(), "PPM"), "UNSUPPORTED_FORMAT", "P6"),
    "ico": (encoded(scene(), "ICO"), "UNSUPPORTED_FORMAT", "starts with"),
    "eps": (encoded(scene(), "EPS"), "UNSUPPORTED_FORMAT", "%!PS"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "UNSUPPORTED_FORMAT", "ftyp"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC_UNSUPPORTED", "send it as JPEG"),
    "heif that names heic second": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC_UNSUPPORTED", "HEIC"),
    "too many bytes": (JPEG + bytes(16 * 2**20), "IMAGE_TOO_LARGE_BYTES", "at most 16777216"),
    "jpeg: signature only": (b"\xff\xd8\xff", "CORRUPT_IMAGE", "JPEG is damaged"),
    "jpeg: header only": (JPEG[:200], "CORRUPT_IMAGE", "JPEG is damaged"),
    "jpeg: half": (JPEG[: len(JPEG) // 2], "CORRUPT_IMAGE", "Premature end"),
    "jpeg: no end mark": (JPEG[:-2], "CORRUPT_IMAGE", "Premature end"),
    "jpeg: hole in the middle": (middle_replaced(JPEG, b"\xff\xd5" * 40), "CORRUPT_IMAGE", "JPEG is damaged"),
    "jpeg: huge by its header": (with_size(JPEG, 65500, 65500), "IMAGE_TOO_MANY_PIXELS", "65500 x 65500"),
    "jpeg: no rows": (with_size(JPEG, 160, 0), "CORRUPT_IMAGE", "JPEG is damaged"),
    "jpeg: 800 scans": (many_scans(4096, 800), "CORRUPT_IMAGE", "800 scans, at most 100"),
    "png: signature only": (PNG[:8], "CORRUPT_IMAGE", "PNG is damaged"),
    "png: half": (PNG[: len(PNG) // 2], "CORRUPT_IMAGE", "PNG is damaged"),
    "png: hole in the middle": (middle_replaced(PNG, b"\0" * 8), "CORRUPT_IMAGE", "bad header checksum"),
    "png: no pixels in it": (png(64, 64, 8, 2, b""), "CORRUPT_IMAGE", "PNG is damaged"),
    "png: 100k x 100k": (png(100_000, 100_000, 8, 2, b"\0"), "IMAGE_TOO_MANY_PIXELS", "too many pixels"),
    "png: 10k x 10k of 1 bit": (png(10_000, 10_000, 1, 0, bytes(1251 * 10_000)), "IMAGE_TOO_MANY_PIXELS", "too many"),
    "png: 7k x 7k": (png(7_000, 7_000, 1, 0, b""), "IMAGE_TOO_MANY_PIXELS", "at most 40000000 pixels"),
    "png: text bomb": (
        flat_png(8, 2, b"abc", chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))),
        "CORRUPT_IMAGE",
        "PNG is damaged",
    ),
    "png: colour profile bomb": (
        flat_png(8, 2, b"abc", chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000)))),
        "CORRUPT_IMAGE",
        "PNG is damaged",
    ),
    "png: 1 x 1": (flat_png(8, 2, b"abc", side=1), "IMAGE_TOO_SMALL", "1 x 1 pixels, at least 8"),
    "png: 4096 x 1": (png(4096, 1, 8, 0, bytes(4097)), "IMAGE_TOO_SMALL", "4096 x 1 pixels"),
    "png: 65500 x 1": (png(65500, 1, 8, 0, bytes(65501)), "IMAGE_TOO_MANY_PIXELS", "20000 on a side"),
    "png: 8 x 168": (png(8, 168, 8, 0, bytes(9 * 168)), "IMAGE_BAD_ASPECT", "at most 20 times"),
    "gif: half": (GIF[: len(GIF) // 2], "CORRUPT_IMAGE", "GIF is damaged"),
    "gif: signature only": (b"GIF89a", "CORRUPT_IMAGE", "GIF is damaged"),
    "gif: 65535 x 65535": (
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b";",
        "CORRUPT_IMAGE",
        "GIF is damaged",
    ),
    "gif: 65535 x 65535 with a frame": (
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\2\0;",
        "IMAGE_TOO_MANY_PIXELS",
        "too many pixels",
    ),
    "webp: 16383 x 16383": (flat_webp(16383, 16383), "IMAGE_TOO_MANY_PIXELS", "too many pixels"),
    "webp: half": (WEBP[: len(WEBP) // 2], "CORRUPT_IMAGE", "WEBP is damaged"),
    "webp: signature only": (b"RIFF\x04\0\0\0WEBP", "CORRUPT_IMAGE", "WEBP is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_has_one_reason(name):
    data, reason, words = BAD[name]
    with pytest.raises(BadImage) as e:
        decode_image(data)
    assert (e.value.reason, words in str(e.value)) == (reason, True), str(e.value)
    assert "\n" not in str(e.value)
    assert "0x7" not in str(e.value)  # no addresses of our objects


def colour(data: bytes) -> tuple[int, ...]:
    """The one colour of a picture that has only one."""
    rgb = decode_image(data)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert (rgb == rgb[0, 0]).all()
    return tuple(int(value) for value in rgb[0, 0])


def alpha_palette() -> bytes:
    """A palette of red and green where red, the colour of every pixel, is transparent."""
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(picture, "PNG", transparency=0)


ONE_COLOUR = {
    "png grey, 8 bits": (flat_png(8, 0, b"\x80"), (128, 128, 128)),
    "png grey, 1 bit": (png(8, 8, 1, 0, b"\0\xff" * 8), WHITE),
    "png grey, 16 bits": (flat_png(16, 0, b"\x12\xff"), (0x12, 0x12, 0x12)),
    "png grey, 16 bits, that value transparent": (
        flat_png(16, 0, b"\x12\xff", chunk(b"tRNS", b"\x12\xff")),
        WHITE,
    ),
    "png grey, 8 bits, that value transparent": (flat_png(8, 0, b"\x12", chunk(b"tRNS", b"\0\x12")), WHITE),
    "png grey, 16 bits, another value transparent": (
        flat_png(16, 0, b"\x12\xff", chunk(b"tRNS", b"\x12\xfe")),
        (0x12, 0x12, 0x12),
    ),
    "png RGB, that colour transparent": (flat_png(8, 2, b"abc", chunk(b"tRNS", b"\0a\0b\0c")), WHITE),
    "png RGB, 16 bits": (flat_png(16, 2, b"\x10\xff\x20\xff\x30\xff"), (0x10, 0x20, 0x30)),
    "png RGBA, opaque": (flat_png(8, 6, b"abc\xff"), (97, 98, 99)),
    "png RGBA, hidden colour": (flat_png(8, 6, b"\xff\0\0\0"), WHITE),
    "png RGBA, 16 bits, hidden colour": (flat_png(16, 6, b"\xff\0" * 3 + b"\0\0"), WHITE),
    "png RGBA, a fifth red": (flat_png(8, 6, b"\xff\0\0\x33"), (255, 204, 204)),
    "png grey and alpha, hidden": (flat_png(8, 4, b"\0\0"), WHITE),
    "png palette, hidden colour": (alpha_palette(), WHITE),
    "webp RGBA, hidden colour": (
        encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True),
        WHITE,
    ),
    "webp RGB": (encoded(Image.new("RGB", (8, 8), RED), "WEBP", lossless=True), RED),
    "gif, transparent": (encoded(Image.new("P", (8, 8), 0), "GIF", transparency=0), WHITE),
    "gif, first of two frames": (
        encoded(Image.new("RGB", (8, 8), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        RED,
    ),
    "webp, first of two frames": (
        encoded(
            Image.new("RGB", (8, 8), RED),
            "WEBP",
            save_all=True,
            lossless=True,
            append_images=[Image.new("RGB", (8, 8))],
        ),
        RED,
    ),
    "apng, first of two frames": (
        encoded(Image.new("RGB", (8, 8), RED), "PNG", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        RED,
    ),
    "jpeg grey": (encoded(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77)),
    "jpeg, then other bytes": (encoded(Image.new("L", (8, 8), 77), "JPEG") + b"after the end" * 9, (77, 77, 77)),
}


@pytest.mark.parametrize("name", ONE_COLOUR)
def test_an_odd_picture_has_the_right_colour(name):
    data, expected = ONE_COLOUR[name]
    assert colour(data) == expected


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(scene(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_turns_the_photo_as_pillow_does(kind, orientation):
    data = turned(kind, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_image(data), np.asarray(expected))


def test_orientation_6_is_a_quarter_turn_clockwise():
    rgb = decode_image(turned("PNG", 6))
    assert rgb.shape == (160, 96, 3)
    assert tuple(rgb[0, 0]) == scene().getpixel((0, 95))  # what was bottom left is now top left


def test_damaged_exif_leaves_the_photo_as_stored():
    data = turned("JPEG", 6).replace(b"Exif\0\0MM", b"Exif\0\0??")
    assert decode_image(data).shape == (96, 160, 3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}],
)
def test_jpeg_pixels_are_those_of_pillow(settings):
    data = encoded(scene(), "JPEG", **settings)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_cmyk_jpeg_is_that_of_pillow_within_rounding(transform):
    data = encoded(scene().convert("CMYK"), "JPEG")
    at = data.index(b"Adobe") + 11
    data = data[:at] + bytes([transform]) + data[at + 1 :]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data) - expected).max() <= 1


def test_a_subsampling_that_turbojpeg_does_not_know_is_left_to_pillow():
    at = JPEG.index(b"\xff\xc0") + 11
    data = JPEG[:at] + b"\x41" + JPEG[at + 1 :]  # four luma columns to one row, then chroma says two: nobody's choice
    data = data[: at + 3] + b"\x21" + data[at + 4 :]
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg_header(data)
    assert decode_image(data).shape == (96, 160, 3)


@pytest.mark.parametrize("data", [PNG, WEBP], ids=["PNG", "WEBP"])
def test_lossless_pixels_are_exact_through_all_strips(data):
    tall = scene(40, 700)
    kind = "PNG" if data is PNG else "WEBP"
    assert np.array_equal(decode_image(encoded(tall, kind, lossless=True)), np.asarray(tall))


def test_half_transparent_pixels_are_blended_with_white():
    rgba = scene().convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    values = np.asarray(rgba).astype(float)
    alpha = values[:, :, 3:] / 255
    expected = values[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode_image(encoded(rgba, "PNG")) - expected).max() <= 1


MEMORY = """
import resource, sys
from captioner.images import BadImage, decode_image
photos = [open(path, "rb").read() for path in sys.argv[1:]]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for photo in photos:
    try:
        print(decode_image(photo).shape)
    except BadImage as e:
        print(e.reason)
print(peak() - before)
"""


def peak_growth(folder: Path, *photos: bytes) -> tuple[list[str], float]:
    """What became of the photos, and by how many MiB the peak memory of a process grew over them."""
    paths = [folder / str(n) for n in range(len(photos))]
    for path, data in zip(paths, photos, strict=True):
        path.write_bytes(data)
    command = [sys.executable, "-c", MEMORY, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    *results, growth = run.stdout.splitlines()
    return results, float(growth)


def test_bombs_are_refused_in_a_few_megabytes(tmp_path):
    bombs = [BAD[name][:2] for name in BAD if any(word in name for word in ("bomb", " x ", "scans"))]
    results, mebibytes = peak_growth(tmp_path, *(data for data, _ in bombs))
    assert results == [reason for _, reason in bombs]
    assert mebibytes < 100


def test_the_largest_photos_allowed_stay_below_a_gibibyte(tmp_path):
    grey_16_with_hidden = png(8000, 5000, 16, 0, bytes(16001 * 5000), chunk(b"tRNS", b"\0\0"))
    rgba = png(8000, 5000, 8, 6, bytes(32001 * 5000))
    results, mebibytes = peak_growth(tmp_path, grey_16_with_hidden, rgba, flat_webp(8000, 5000), many_scans(6320, 10))
    assert results == ["(5000, 8000, 3)"] * 3 + ["(6320, 6320, 3)"]
    assert mebibytes < 1024


def test_a_refused_size_is_refused_on_the_header(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)  # would be a TypeError
    with pytest.raises(BadImage) as e:
        decode_image(JPEG, ImageLimits(max_pixels=1000))
    assert e.value.reason == "IMAGE_TOO_MANY_PIXELS"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 100}, "IMAGE_TOO_LARGE_BYTES"),
        ({"max_side": 159}, "IMAGE_TOO_MANY_PIXELS"),
        ({"min_side": 97}, "IMAGE_TOO_SMALL"),
        ({"max_aspect": 1.6}, "IMAGE_BAD_ASPECT"),
    ],
)
def test_limits_can_be_set_and_hold_for_every_kind_of_photo(limits, reason, tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    photos = [PNG, JPEG, tmp_path / "photo.png", str(tmp_path / "photo.png")]
    if "max_bytes" not in limits:
        photos += [scene(), np.asarray(scene())]
    for photo in photos:
        with pytest.raises(BadImage) as e:
            read_photo(photo, ImageLimits(**limits))
        assert e.value.reason == reason


def test_limits_check_themselves():
    with pytest.raises(ValueError, match="max_pixels must be at least 1, got 0"):
        ImageLimits(max_pixels=0)


def test_every_kind_of_photo_gives_the_same_pixels(tmp_path):
    (tmp_path / "photo").write_bytes(PNG)  # no suffix: only content counts
    expected = np.asarray(scene())
    for photo in (PNG, tmp_path / "photo", str(tmp_path / "photo"), scene(), expected, expected[:, ::-1][:, ::-1]):
        assert np.array_equal(read_photo(photo), expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV", "I", "I;16", "RGBX"]
)
def test_pillow_pictures_of_any_mode(mode):
    if mode.startswith("I"):
        picture = Image.new(mode, (16, 16), 255 << 8)
    else:
        picture = Image.new("L", (16, 16), 255).convert(mode)
    assert (read_photo(picture) == 255).all()


def test_a_pillow_mode_without_colours_is_a_bad_image():
    with pytest.raises(BadImage, match="conversion from La"):
        read_photo(Image.new("La", (16, 16)))


def test_a_pillow_picture_with_exif_is_turned():
    assert read_photo(Image.open(io.BytesIO(turned("JPEG", 6)))).shape == (160, 96, 3)


def test_a_truncated_pillow_picture_is_a_bad_image():
    with pytest.raises(BadImage, match="PNG is damaged"):
        read_photo(Image.open(io.BytesIO(PNG[: len(PNG) // 2])))


def test_a_grey_array_is_accepted():
    grey = np.asarray(scene().convert("L"))
    assert np.array_equal(read_photo(grey), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize(
    ("array", "reason", "words"),
    [
        (np.zeros((32, 32, 3), np.float32), "UNSUPPORTED_FORMAT", "got float32 [32, 32, 3]"),
        (np.zeros((3, 32, 32), np.uint8), "UNSUPPORTED_FORMAT", "got uint8 [3, 32, 32]"),
        (np.zeros((32, 32, 4), np.uint8), "UNSUPPORTED_FORMAT", "got uint8 [32, 32, 4]"),
        (np.zeros(32, np.uint8), "UNSUPPORTED_FORMAT", "got uint8 [32]"),
        (np.zeros((0, 32, 3), np.uint8), "EMPTY_IMAGE", "[0, 32, 3]"),
        (np.zeros((4, 32, 3), np.uint8), "IMAGE_TOO_SMALL", "32 x 4 pixels"),
    ],
)
def test_a_bad_array_is_named(array, reason, words):
    with pytest.raises(BadImage) as e:
        read_photo(array)
    assert e.value.reason == reason
    assert words in str(e.value)


def test_something_else_is_a_type_error_and_a_missing_file_an_os_error(tmp_path):
    with pytest.raises(TypeError, match="got int"):
        read_photo(7)
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "none.jpg")


def test_bad_image_survives_pickling():
    copy = pickle.loads(pickle.dumps(BadImage("EMPTY_IMAGE", "the photo is empty")))
    assert (copy.reason, str(copy)) == ("EMPTY_IMAGE", "the photo is empty")


def test_threads_decode_together():
    expected, wrong = decode_image(PNG), []

    def work():
        for _ in range(20):
            if not np.array_equal(decode_image(PNG), expected):
                wrong.append("pixels")
            with pytest.raises(BadImage):
                decode_image(BAD["png: 10k x 10k of 1 bit"][0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def decodes_or_is_bad(data: bytes) -> None:
    limits = ImageLimits(max_pixels=1_000_000)
    try:
        rgb = decode_image(data, limits)
    except BadImage:
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert min(rgb.shape[:2]) >= 8
    assert rgb.shape[0] * rgb.shape[1] <= 1_000_000


FILES = {
    "jpeg": JPEG,
    "progressive": encoded(scene(), "JPEG", progressive=True),
    "turned": turned("JPEG", 5),
    "png": PNG,
    "palette": alpha_palette(),
    "gif": GIF,
    "webp": WEBP,
    "animation": ONE_COLOUR["webp, first of two frames"][0],
}


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(draw=st.data())
def test_damage_anywhere_decodes_or_is_a_bad_image(name, draw):
    data = bytearray(FILES[name])
    for _ in range(draw.draw(st.integers(0, 4), "changes")):
        data[draw.draw(st.integers(0, len(data) - 1), "at")] = draw.draw(st.integers(0, 255), "byte")
    if draw.draw(st.booleans(), "cut"):
        del data[draw.draw(st.integers(0, len(data)), "length") :]
    decodes_or_is_bad(bytes(data))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from([JPEG[:3], PNG[:8], WEBP[:12], b"GIF89a"]), st.binary(max_size=300))
def test_any_bytes_after_a_signature_decode_or_are_a_bad_image(signature, rest):
    decodes_or_is_bad(signature + rest)


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["JPEG", "PNG"])
def test_every_truncation_is_a_bad_image(data):
    for length in range(0, len(data) - 4, 7):  # nothing is lost with the checksum of a PNG's end mark
        with pytest.raises(BadImage):
            decode_image(data[:length])


def smooth(width: int, height: int) -> Image.Image:
    """Colours that change softly, as they do in a photo."""
    few = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("width", "height", "needed", "expected"),
    [
        (640, 480, None, (480, 640)),
        (640, 480, (224, 224), (240, 320)),
        (640, 440, (224, 224), (440, 640)),  # half of it would be too low
        (2000, 1600, (224, 224), (400, 500)),
        (200, 100, (224, 224), (100, 200)),
        (640, 480, (240, 321), (480, 640)),
    ],
)
def test_a_large_jpeg_is_decoded_no_larger_than_needed(width, height, needed, expected):
    assert decode_image(encoded(smooth(width, height), "JPEG"), needed=needed).shape == (*expected, 3)
    png = encoded(smooth(width, height), "PNG")
    assert decode_image(png, needed=needed).shape == (height, width, 3)


def test_needed_is_as_the_photo_is_seen():
    """640 x 480 on its side is 480 wide and 640 high: 300 of its rows and 240 of its columns are half of it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(smooth(640, 480), "JPEG", exif=exif)
    assert decode_image(data, needed=(300, 240)).shape == (320, 240, 3)
    assert decode_image(data, needed=(240, 300)).shape == (640, 480, 3)


def test_a_jpeg_decoded_small_looks_as_it_does_decoded_whole():
    preprocessing = Preprocessing(height=64, width=64)
    data = encoded(smooth(640, 480), "JPEG", quality=92)
    small, whole = load_pixels(data, preprocessing), resize(decode_image(data), preprocessing)
    assert np.abs(small.astype(int) - whole).max() <= 3


def test_damage_is_seen_in_a_jpeg_decoded_small():
    data = encoded(smooth(640, 480), "JPEG")
    with pytest.raises(BadImage, match="damaged"):
        decode_image(data[: len(data) // 2], needed=(64, 64))


def test_resize_squashes_and_averages():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 200  # every other column
    small = resize(stripes, Preprocessing(height=16, width=16))
    assert small.shape == (16, 16, 3)
    assert np.abs(small[:, 2:-2].astype(int) - 100).max() <= 2  # not one of the columns: their mean
    small[0, 0] = 7  # the caller owns it
    assert load_pixels(PNG, Preprocessing(height=32, width=64)).shape == (32, 64, 3)


def test_pixels_are_the_same_however_the_photo_arrives():
    wanted = Preprocessing(height=64, width=64)
    rgb = decode_image(JPEG)
    for photo in (JPEG, rgb, Image.open(io.BytesIO(JPEG))):
        assert np.array_equal(load_pixels(photo, wanted), resize(rgb, wanted))


def test_real_photos_decode_as_pillow_decodes_them(shared):
    photos = sorted((shared / "data/coco_mini/val2017").glob("*.jpg"))[:12]
    for photo in photos:
        with Image.open(photo) as picture:
            assert np.array_equal(read_photo(photo), np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
