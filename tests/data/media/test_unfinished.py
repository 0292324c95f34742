"""Files that are there in part."""

import io

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.media.image_files import MediaError, image_size, load_image


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_rest_is_zeros_is_truncated(tmp_path, progressive):
    whole = jpeg(progressive=progressive)
    half = len(whole) // 2
    (tmp_path / "a.jpg").write_bytes(whole[:half] + bytes(len(whole) - half))
    for read in (load_image, image_size):
        with pytest.raises(MediaError, match="'a.jpg' is truncated: it ends in zeros. Remedy: download it again"):
            read("a.jpg", tmp_path)
    with pytest.raises(MediaError, match="it ends in zeros"):
        load_image((tmp_path / "a.jpg").read_bytes(), None)


def test_zeros_behind_a_whole_jpeg_are_no_fault(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg() + b"of the camera" + bytes(10_000))
    assert load_image("a.jpg", tmp_path).size == image_size("a.jpg", tmp_path) == (300, 200)
