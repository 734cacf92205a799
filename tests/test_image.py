"""Reading images, and the geometry between an image and its canvas."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtime import image as im
from edgekit.runtime import jpeg
from edgekit.spec import Preprocess

Image = pytest.importorskip("PIL.Image", reason="needs Pillow, which writes the test files")


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth random BGR image."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def saved(path: Path, bgr: np.ndarray, **options: object) -> Path:
    Image.fromarray(bgr[:, :, ::-1]).save(path, **options)
    return path


# ---- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    found = im.read_image(saved(tmp_path / f"a{suffix}", picture()))
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, picture())


def test_every_exif_orientation_is_applied(tmp_path: Path) -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / f"{orientation}.jpg", picture(), quality=100, subsampling=0, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))[:, :, ::-1]
        found = im.read_image(path)
        assert found.shape == upright.shape
        assert np.abs(found.astype(int) - upright).max() <= 4  # two JPEG decoders
        np.testing.assert_array_equal(im.as_image(Image.open(path)), upright)


def test_sixteen_bits_are_scaled_and_grey_gets_three_channels(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    expected = np.rint(deep / 257).astype(np.uint8)
    for name in ("deep.png", "deep.tiff"):
        cv2.imwrite(str(tmp_path / name), deep)
        found = im.read_image(tmp_path / name)
        np.testing.assert_array_equal(found, np.repeat(expected[:, :, None], 3, 2))
    np.testing.assert_array_equal(im.as_image(deep)[:, :, 0], expected)
    np.testing.assert_array_equal(im.as_image(Image.fromarray(deep))[:, :, 1], expected)


def test_transparency_is_dropped_and_colours_stay(tmp_path: Path) -> None:
    rgba = np.dstack([picture(), np.random.default_rng(1).integers(0, 256, (60, 80), np.uint8)])
    cv2.imwrite(str(tmp_path / "a.png"), rgba)
    np.testing.assert_array_equal(im.read_image(tmp_path / "a.png"), picture())
    np.testing.assert_array_equal(im.as_image(rgba), picture())


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_other_colour_modes_become_bgr(tmp_path: Path, mode: str) -> None:
    converted = Image.fromarray(picture()[:, :, ::-1]).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    converted.save(path)
    expected = np.asarray(converted.convert("RGB"))[:, :, ::-1]
    np.testing.assert_array_equal(im.as_image(converted), expected)
    if mode != "CMYK":  # Pillow and OpenCV turn CMYK into colors by different formulas
        np.testing.assert_array_equal(im.read_image(path), expected)


def test_bytes_after_the_end_do_not_matter(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        path = saved(tmp_path / name, picture())
        whole = im.read_image(path)
        path.write_bytes(path.read_bytes() + b"\x00\x01trailer\xff\xd8" * 9)
        np.testing.assert_array_equal(im.read_image(path), whole)


def test_jpegs_of_every_make_are_whole_and_their_beginnings_are_not(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(picture(20, 20)).save(thumbnail, "JPEG")
    makes = {
        "baseline": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "grey": {},
        "comment": {"comment": b"\xff\xd9 is not the end"},
    }
    for name, options in makes.items():
        out = io.BytesIO()
        shown = Image.fromarray(picture(200, 300)[:, :, 0] if name == "grey" else picture(200, 300))
        shown.save(out, "JPEG", **options)
        data = out.getvalue()
        # A thumbnail in an APP1 segment brings end-of-image markers of its own.
        inner = thumbnail.getvalue()
        nested = data[:2] + b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner + data[2:]
        for whole in (data, nested, data[:2] + b"\xff\xff\xff" + data[3:]):
            assert jpeg.is_whole(whole), name
            for length in {2, 3, 4, 20, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
                assert not jpeg.is_whole(whole[:length]), (name, length)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_cut_files_are_refused_quietly(
    tmp_path: Path, name: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / name, np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=name) as caught:
        im.read_image(path)
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert out == ""
    if name in ("a.jpg", "a.png"):
        assert "cut short" in str(caught.value)
        assert err == ""  # the decoder, which has its own opinion on standard error, never saw it


def test_what_is_no_image_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image at all")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("empty.jpg", "text.jpg", "folder.jpg", "header.png", "absent.jpg"):
        with pytest.raises(InputError, match=name):
            im.read_image(tmp_path / name)


def test_a_claim_of_a_gigantic_size_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 2_000_000_000, 2_000_000_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(InputError, match=r"bomb\.png"):
        im.read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_images_of_one_pixel_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    saved(tmp_path / "dot.png", np.zeros((*shape, 3), np.uint8))
    with pytest.raises(InputError, match=r"dot\.png.*too small"):
        im.read_image(tmp_path / "dot.png")
    with pytest.raises(InputError, match="too small"):
        im.as_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((2, 5, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((5, 5, 3), complex),
        np.zeros((5, 5, 3), "M8[s]"),
        np.full((5, 5, 3), "white"),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_arrays_that_are_no_image_are_refused(value: object) -> None:
    with pytest.raises(InputError):
        im.as_image(value)


def test_arrays_with_odd_strides_are_taken() -> None:
    whole = picture()
    for view in (whole[:, ::-1], whole[::2, ::3], whole[:, :, ::-1], np.asfortranarray(whole)):
        found = im.as_image(view)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, view)
    np.testing.assert_array_equal(im.as_image(whole[:, ::-1, 0]), np.repeat(whole[:, ::-1, :1], 3, 2))
    np.testing.assert_array_equal(im.as_image(whole[:, :, :1]), np.repeat(whole[:, :, :1], 3, 2))


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    im.write_image(tmp_path / "a.PNG", picture())
    np.testing.assert_array_equal(im.read_image(tmp_path / "a.PNG"), picture())
    for bad in (tmp_path / "a.xyz", tmp_path / "nosuffix", tmp_path / "absent" / "a.png"):
        with pytest.raises(InputError, match=bad.name):
            im.write_image(bad, picture())
    assert [p.name for p in tmp_path.iterdir()] == ["a.PNG"]


# ---- letterbox --------------------------------------------------------------------------------------------------

sides = st.integers(2, 3000)
canvas_sides = st.integers(1, 20).map(lambda n: n * 32)


@settings(max_examples=60, deadline=None)
@given(sides, sides, canvas_sides, canvas_sides, st.integers(0, 2**32 - 1))
def test_letterbox_fits_centres_and_inverts(h: int, w: int, height: int, width: int, seed: int) -> None:
    canvas, g = im.letterbox(np.full((h, w, 3), 7, np.uint8), (height, width))
    assert canvas.shape == (height, width, 3)
    ratio = min(height / h, width / w)
    rows, columns = (canvas[:, :, 0] == 7).any(1), (canvas[:, :, 0] == 7).any(0)
    new_h, new_w = rows.sum(), columns.sum()
    assert abs(new_h - max(h * ratio, 1)) <= 0.5 and abs(new_w - max(w * ratio, 1)) <= 0.5
    top, left = rows.argmax(), columns.argmax()
    assert (canvas[top : top + new_h, left : left + new_w] == 7).all()
    assert (canvas == 114).all(2).sum() == height * width - new_h * new_w
    assert 0 <= (height - new_h - top) - top <= 1 and 0 <= (width - new_w - left) - left <= 1
    assert (g.left, g.top) == (left, top)

    rng = np.random.default_rng(seed)
    points = rng.random((5, 4, 2)) * [w, h]
    np.testing.assert_allclose(g.points_to_image(g.points_to_canvas(points)), points, rtol=1e-3, atol=2e-3 * max(h, w))
    edges = np.array([[0, 0, w, h]], np.float32)
    np.testing.assert_allclose(g.boxes_to_canvas(edges), [[left, top, left + new_w, top + new_h]], atol=1e-3)
    np.testing.assert_allclose(g.boxes_to_image(g.boxes_to_canvas(edges)), edges, rtol=1e-5, atol=1e-2)
    beyond = g.boxes_to_image(np.array([[-9e3, -9e3, 9e3, 9e3]]))
    np.testing.assert_array_equal(beyond, edges)


def test_letterbox_puts_content_where_the_geometry_says() -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[100:140, 200:280] = 255
    canvas, g = im.letterbox(image, (256, 320))
    found = np.argwhere(canvas[:, :, 0] > 127)
    expected = g.boxes_to_canvas(np.array([[200, 100, 280, 140]]))[0]
    got = [found[:, 1].min(), found[:, 0].min(), found[:, 1].max() + 1, found[:, 0].max() + 1]
    np.testing.assert_allclose(got, expected, atol=1)


def test_letterbox_pads_odd_remainders_as_published() -> None:
    # 5 rows of padding: 2 above, 3 below, since round(2.5 - 0.1) = 2.
    canvas, g = im.letterbox(np.zeros((27, 32, 3), np.uint8), (32, 32), fill=9)
    assert (g.top, g.left) == (2, 0)
    assert (canvas[:2] == 9).all() and (canvas[2:29] == 0).all() and (canvas[29:] == 9).all()


def test_letterbox_of_an_image_that_fits_is_the_image() -> None:
    canvas, g = im.letterbox(picture(64, 96), (64, 96))
    np.testing.assert_array_equal(canvas, picture(64, 96))
    assert (g.scale_x, g.scale_y, g.left, g.top) == (1, 1, 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(200, 2000), st.integers(200, 2000), st.integers(0, 2**32 - 1))
def test_rotated_boxes_go_there_and_back(h: int, w: int, seed: int) -> None:
    _, g = im.letterbox(np.zeros((h, w, 3), np.uint8), (640, 640))
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        [rng.random((8, 2)) * [w, h], 5 + rng.random((8, 2)) * 100, (rng.random(8) - 0.5) * math.pi]
    )
    back = g.rotated_to_image(g.rotated_to_canvas(boxes))
    np.testing.assert_allclose(back, boxes, rtol=2e-3, atol=2e-2)
    # Upright ones move exactly as boxes do.
    upright = boxes.copy()
    upright[:, 4] = 0
    corners = np.column_stack([upright[:, :2] - upright[:, 2:4] / 2, upright[:, :2] + upright[:, 2:4] / 2])
    moved, expected = g.rotated_to_canvas(upright), g.boxes_to_canvas(corners)
    np.testing.assert_allclose(moved[:, :2] - moved[:, 2:4] / 2, expected[:, :2], atol=1e-3)
    np.testing.assert_allclose(moved[:, :2] + moved[:, 2:4] / 2, expected[:, 2:], atol=1e-3)


# ---- centre crop ------------------------------------------------------------------------------------------------


def pil_crop(bgr: np.ndarray, size: int) -> np.ndarray:
    """The reference: short side resized by Pillow's antialiased bilinear, middle cut out."""
    height, width = bgr.shape[:2]
    new = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    resized = np.asarray(Image.fromarray(bgr).resize(new, Image.Resampling.BILINEAR))
    top, left = round((new[1] - size) / 2), round((new[0] - size) / 2)
    return resized[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(170, 256, 128), (256, 170, 128), (64, 64, 64), (50, 70, 96), (333, 501, 224), (240, 240, 64), (2, 9, 32)],
)
def test_centre_crop_agrees_with_pillow(height: int, width: int, size: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    for source in (picture(height, width), noise):
        found, _ = im.centre_crop(source, (size, size))
        assert found.shape == (size, size, 3) and found.dtype == np.uint8
        assert np.abs(found.astype(int) - pil_crop(source, size)).max() <= 1


def test_centre_crop_of_a_large_image_is_close_to_pillow() -> None:
    source = picture(1500, 2100)
    difference = np.abs(im.centre_crop(source, (160, 160))[0].astype(int) - pil_crop(source, 160))
    assert difference.mean() < 0.5 and difference.max() <= 4


def test_centre_crop_of_real_photos(shared: Path) -> None:
    paths = sorted((shared / "data/flowers5/val").glob("*/*.jpg"))[::10]
    for path in paths:
        source = im.read_image(path)
        assert np.abs(im.centre_crop(source, (128, 128))[0].astype(int) - pil_crop(source, 128)).max() <= 1


def test_centre_crop_geometry_and_oblong_sizes() -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[140:160, 240:270] = 255
    for size in ((96, 96), (64, 160), (160, 64), (320, 320)):
        crop, g = im.centre_crop(image, size)
        assert crop.shape[:2] == size
        found = np.argwhere(crop[:, :, 0] > 127)
        got = [found[:, 1].min(), found[:, 0].min(), found[:, 1].max() + 1, found[:, 0].max() + 1]
        np.testing.assert_allclose(got, g.boxes_to_canvas(np.array([[240, 140, 270, 160]]))[0], atol=1)


# ---- the tensor -------------------------------------------------------------------------------------------------


def test_to_input_is_rgb_scaled_and_padded() -> None:
    canvases = [picture(32, 64, seed) for seed in range(3)]
    tensor = im.to_input(canvases, batch=5)
    assert tensor.shape == (5, 3, 32, 64) and tensor.dtype == np.float32 and tensor.flags.c_contiguous
    expected = np.stack(canvases)[..., ::-1].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(tensor[:3], expected, rtol=1e-6)
    assert not tensor[3:].any()
    np.testing.assert_allclose(im.to_input(canvases, 1.0, "BGR"), np.stack(canvases).transpose(0, 3, 1, 2))


def test_prepare_follows_the_models_wishes() -> None:
    images = [picture(50, 90), picture(90, 50)]
    tensor, geometries = im.prepare(images, (64, 64), Preprocess())
    np.testing.assert_array_equal(tensor, im.to_input([im.letterbox(i, (64, 64))[0] for i in images]))
    assert [(g.height, g.width) for g in geometries] == [(50, 90), (90, 50)]
    tensor, _ = im.prepare(images, (64, 64), Preprocess(mode="centre_crop"), batch=4)
    np.testing.assert_array_equal(tensor[:2], im.to_input([im.centre_crop(i, (64, 64))[0] for i in images]))
    with pytest.raises(InputError, match="stretch"):
        im.prepare(images, (64, 64), Preprocess(mode="stretch"))


# ---- other numbers, tensors, unfinished files -------------------------------------------------------------------


def full_range(height: int = 40, width: int = 60) -> np.ndarray:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    levels[0, 0], levels[0, 1] = 0, 255
    return levels


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        *((dtype, white) for dtype in ("f2", "f4", "f8", ">f4") for white in (1, 255)),
        *((dtype, 255) for dtype in ("i2", "i4", "i8", "u4", ">i4")),
        *((dtype, 65535) for dtype in ("u2", ">u2", "i4", "i8", "u4", "u8")),
    ],
)
def test_pixels_of_any_number_mean_the_same_picture(dtype: str, white: int) -> None:
    levels = full_range()
    given = (levels / 255 * white).round(0 if white > 1 else 9).astype(dtype)
    before = given.copy()
    np.testing.assert_array_equal(im.as_image(given), levels)
    np.testing.assert_array_equal(im.as_image(given[::-1, ::2, ::-1]), levels[::-1, ::2, ::-1])  # odd strides
    given.flags.writeable = False
    np.testing.assert_array_equal(im.as_image(given), levels)
    np.testing.assert_array_equal(given, before)


def test_true_is_white() -> None:
    np.testing.assert_array_equal(im.as_image(np.eye(5, dtype=bool))[:, :, 0], np.eye(5) * 255)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 1.1, "f4"),  # resampled beyond white: as 0..255 it would be black
        (-0.1, 1, "f4"),
        (-2, 2.5, "f4"),  # normalised by a mean and a deviation
        (0, 1000, "f4"),
        (0, np.nan, "f4"),
        (0, np.inf, "f8"),
        (-1, 255, "i4"),
        (0, 65536, "i8"),
    ],
)
def test_numbers_of_no_known_range_are_refused_with_their_range(low: float, high: float, dtype: str) -> None:
    values = np.zeros((5, 6), dtype)
    values[0, 0], values[0, 1] = low, high
    with pytest.raises(InputError, match=str(np.dtype(dtype))) as caught:
        im.as_image(values, "frame 7")
    assert "frame 7" in str(caught.value) and "\n" not in str(caught.value)


def test_sixteen_bits_that_are_hardly_used_are_pointed_out() -> None:
    with pytest.warns(RuntimeWarning, match="255 of 65535"):
        im.as_image(full_range().astype(np.uint16), "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "I", "F", "I;16", "I;16B"])
def test_pil_images_of_every_mode(mode: str) -> None:
    grey = np.where(np.indices((30, 40)).sum(0) % 7 < 3, 255, 0).astype(np.uint8)  # what every mode can hold
    if mode.startswith("I;16"):
        wide = (grey.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2")
        image = Image.frombytes(mode, (40, 30), wide.tobytes())
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    np.testing.assert_array_equal(im.as_image(image), np.repeat(grey[:, :, None], 3, 2))


def test_pil_images_that_cannot_be_decoded_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(picture(200, 300)).save(out, "JPEG")
    with pytest.raises(InputError, match="frame"):
        im.as_image(Image.open(io.BytesIO(out.getvalue()[:3000])), "frame")


def test_tensors_have_their_planes_first_and_red_in_front() -> None:
    torch = pytest.importorskip("torch")
    levels = full_range()
    planes = torch.from_numpy(levels[:, :, ::-1].copy()).permute(2, 0, 1)
    for tensor in (planes, planes.contiguous(), planes / 255, (planes / 255).half(), planes.int()):
        np.testing.assert_array_equal(im.as_image(tensor), levels)
    np.testing.assert_array_equal(im.as_image(planes[:1])[:, :, 1], levels[:, :, 2])
    for refused in (
        (planes / 255).requires_grad_(),
        (planes / 255).bfloat16(),
        planes.to("meta"),
        planes.permute(1, 2, 0),
        planes[None],
    ):
        with pytest.raises(InputError, match="Tensor|tensor"):
            im.as_image(refused)


class Elsewhere:
    """Numbers of a library that offers nothing but DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_whatever_offers_dlpack_is_read() -> None:
    levels = full_range()
    planes = np.ascontiguousarray(levels[:, :, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(im.as_image(Elsewhere(planes)), levels)


def test_files_of_other_numbers(tmp_path: Path) -> None:
    grey = full_range()[:, :, 0]
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "whole.tif")
    for name in ("float.tif", "whole.tif"):
        np.testing.assert_array_equal(im.read_image(tmp_path / name), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0}])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_that_lacks_its_end_alone_is_used(
    tmp_path: Path, options: dict[str, object], grey: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(out, "JPEG", **options)
    (tmp_path / "whole.jpg").write_bytes(out.getvalue())
    whole = im.read_image(tmp_path / "whole.jpg")
    path = tmp_path / "a.jpg"
    for missing in (1, 2):
        path.write_bytes(out.getvalue()[:-missing])
        np.testing.assert_array_equal(im.read_image(path), whole)
    for missing in (20, 200, len(out.getvalue()) // 3, len(out.getvalue()) - 30):
        path.write_bytes(out.getvalue()[:-missing])
        with pytest.raises(InputError, match=r"a\.jpg.*cut short"):
            im.read_image(path)
    assert capfd.readouterr() == ("", "")


def test_a_progressive_jpeg_that_ends_between_two_scans_is_cut_short(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(picture(90, 130)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    scans = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for start in scans[1:]:  # a table may stand before a scan: it leaves no gap either
        (tmp_path / "a.jpg").write_bytes(data[:start])
        with pytest.raises(InputError, match="cut short"):
            im.read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".mpo", ".JPG", ".webp", ".jp2", ".gif", ".avif", ".dib"])
def test_suffixes_that_strangers_bring(tmp_path: Path, suffix: str) -> None:
    assert suffix.lower() in im.SUFFIXES
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "MPO", ".JPG": "JPEG"}.get(suffix)
    path = tmp_path / f"a{suffix}"
    try:
        Image.fromarray(picture()[:, :, ::-1]).save(path, kind)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"this Pillow cannot write it: {error}")
    if not cv2.haveImageReader(str(path)):
        with pytest.raises(InputError, match="unknown format"):
            im.read_image(path)
        return
    found = im.read_image(path)
    assert found.shape == (60, 80, 3) and np.abs(found.astype(int) - picture()).mean() < 12
