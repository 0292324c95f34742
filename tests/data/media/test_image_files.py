"""Images: kinds of files and of damage."""

import os
import warnings

import pytest
from PIL import Image

from cambrian_gaze.data.media.image_files import MediaError, MissingMedia, image_size, load_image, regular_file, to_rgb
from tests.data._stand_ins import png_header, write_bad_images, write_image


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_named_with_a_remedy_and_leave_no_file_open(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    cases = write_bad_images(folder)
    before = open_files()
    for path, reason in cases.items():
        with pytest.raises(MediaError, match=reason) as caught:
            load_image(path, folder)
        assert repr(path) in caught.value.reason and caught.value.remedy
        del caught
    assert load_image("whole.png", folder).size == (40, 30)
    assert open_files() == before


def test_a_file_that_git_lfs_has_not_fetched_says_so(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("a.png", "a.mp4"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(MediaError, match=f"'{name}' is a pointer of Git LFS.*Remedy: fetch it: git lfs pull"):
            regular_file(name, tmp_path)


def test_bomb_warnings_turned_into_errors_are_media_errors_too(tmp_path):
    (tmp_path / "large.png").write_bytes(png_header(12_000, 12_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError, match="'large.png' is too large"):
            load_image("large.png", tmp_path)


def test_no_folder_and_own_limit(tmp_path):
    write_image(tmp_path / "a.png")
    with pytest.raises(MediaError, match="'a.png': no folder.*Remedy: pass image_folder"):
        load_image("a.png", None)
    with pytest.raises(MediaError, match="8x8 = 64 pixels, more than the 63 allowed"):
        load_image("a.png", tmp_path, max_pixels=63)
    assert load_image("a.png", tmp_path, max_pixels=64).size == (8, 8)


def test_links_within_the_folder_and_absolute_paths_below_it(tmp_path):
    write_image(tmp_path / "real" / "a.png")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b.png").symlink_to("a.png")
    for path in ("b.png", str(tmp_path / "root" / "a.png"), "x/../a.png"):
        assert load_image(path, tmp_path / "root").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(MediaError, match="'a.png' cannot be read: Permission denied"):
        load_image("a.png", tmp_path)


@pytest.mark.parametrize("orientation", range(1, 10))
def test_orientation_is_applied_and_known_from_the_header(tmp_path, orientation):
    image = Image.new("RGB", (16, 8), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 8, 4))  # a red corner, upper left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 is none, and is passed over
    corners = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1), 9: (0, 0)}
    for name in ("a.jpg", "a.png"):
        image.save(tmp_path / name, exif=exif)
        upright = load_image(name, tmp_path)
        assert upright.size == image_size(name, tmp_path) == ((8, 16) if 5 <= orientation <= 8 else (16, 8))
        right, down = corners[orientation]
        red, _, blue = upright.getpixel((right * (upright.width - 1), down * (upright.height - 1)))
        assert red > 200 > 60 > blue


def test_several_pictures_in_one_file_give_the_first(tmp_path):
    first, second = (Image.new("RGB", (9, 7), colour) for colour in ((250, 10, 10), (10, 10, 250)))
    for name, kind in (("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.jpg", "MPO")):
        first.save(tmp_path / name, kind, save_all=True, append_images=[second])
        red, _, blue = load_image(name, tmp_path).getpixel((4, 3))
        assert red > 200 > 60 > blue and image_size(name, tmp_path) == (9, 7)


def test_missing_is_not_the_same_as_unreadable(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "file.png").write_bytes(b"x")
    for path in ("none.png", "none/a.png", "file.png/a.png"):
        with pytest.raises(MissingMedia, match="cannot be found"):
            regular_file(path, tmp_path)
    for path in ("empty.png", ".", "../x.png"):
        with pytest.raises(MediaError) as caught:
            regular_file(path, tmp_path)
        assert not isinstance(caught.value, MissingMedia)
    assert regular_file("file.png", tmp_path) == str((tmp_path / "file.png").resolve())


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("L", 100, "png", (100, 100, 100)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 257 * 100, "png", (100, 100, 100)),
        ("I", 257 * 100, "tif", (100, 100, 100)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("I;16B", 257 * 100, "tif", (100, 100, 100)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("YCbCr", (0, 128, 128), "jpg", (0, 0, 0)),
    ],
)
def test_modes(tmp_path, mode, color, suffix, expected):
    name = write_image(tmp_path / f"a.{suffix}", color, mode=mode)
    image = load_image(name, tmp_path)
    assert image.mode == "RGB" and image.getpixel((3, 3)) == expected


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.gif", transparency=1)
    assert load_image("plain.png", tmp_path).getpixel((0, 0)) == (9, 8, 7)
    assert load_image("clear.gif", tmp_path).getpixel((0, 0)) == (255, 255, 255)


def test_values_of_unknown_range_are_refused(tmp_path):
    write_image(tmp_path / "f.tif", 0.5, mode="F")
    write_image(tmp_path / "i.tif", 70_000, mode="I")
    with pytest.raises(MediaError, match="'f.tif' stores floating-point"):
        load_image("f.tif", tmp_path)
    with pytest.raises(MediaError, match="'i.tif' stores 32-bit values .70000 to 70000."):
        load_image("i.tif", tmp_path)


def test_to_rgb_leaves_its_argument_alone():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255) and image.getpixel((0, 0)) == (0, 0, 0, 0)
