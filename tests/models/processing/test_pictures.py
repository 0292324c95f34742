"""Pictures and videos in every form that people hand over."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.models.processing.pictures import nested, nested_videos, open_picture, open_video, share
from tests.models.conftest import ask, noise

IMAGE = noise(5, (30, 40))
VALUES = np.asarray(IMAGE)


def png(image=IMAGE) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: str) -> str:
    return "data:image/png;base64," + data


BASE64 = base64.b64encode(png()).decode()
FORMS = {
    "PIL": IMAGE,
    "bytes": png(),
    "bytearray": bytearray(png()),
    "data URL": data_url(BASE64),
    "data URL with line breaks": data_url("\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76))),
    "data URL without padding": data_url(BASE64.rstrip("=")),
    "data URL, the alphabet of URLs": data_url(BASE64.replace("+", "-").replace("/", "_")),
    "array": VALUES,
    "array, channels first": VALUES.transpose(2, 0, 1),
    "array of 64-bit integers": VALUES.astype(np.int64),
    "array of floats": VALUES.astype(np.float32) / 255,
    "tensor": torch.from_numpy(VALUES.copy()).permute(2, 0, 1),
    "tensor, channels last": torch.from_numpy(VALUES.copy()),
    "bf16 is too coarse, fp64 is not": torch.from_numpy(VALUES / 255.0).permute(2, 0, 1),
    "datasets, bytes": {"bytes": png(), "path": None},
    "base64": {"base64": BASE64},
    "OpenAI": {"url": data_url(BASE64), "detail": "auto"},
}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_same_picture_in_every_form(form, processor):
    assert np.array_equal(np.asarray(open_picture(FORMS[form])), VALUES)
    direct = processor(text="<image>", images=IMAGE)["pixel_values"]
    assert torch.equal(processor(text="<image>", images=FORMS[form])["pixel_values"], direct)
    chat = processor.apply_chat_template(ask(FORMS[form]), tokenize=True)
    assert torch.equal(chat["pixel_values"], direct)


def test_files(tmp_path):
    path = tmp_path / "a b.png"
    IMAGE.save(path)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.png"
    link.symlink_to(path)  # as the hub's cache holds its files
    for given in (path, str(path), path.as_uri(), link, {"path": str(path)}):
        assert np.array_equal(np.asarray(open_picture(given)), VALUES)


def test_grey_and_transparent_arrays():
    grey = VALUES[..., 0]
    assert np.array_equal(np.asarray(open_picture(grey))[..., 2], grey)
    assert np.array_equal(np.asarray(open_picture(grey[..., None]))[..., 2], grey)
    clear = np.concatenate([VALUES, np.zeros_like(VALUES[..., :1])], 2)
    assert np.asarray(open_picture(clear)).min() == 255


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.com/a.png", "nothing is fetched"),
        ("HTTP://example.com/a", "nothing is fetched"),
        ("s3://bucket/a.png", "nothing is fetched"),
        ("nothing.png", "no such file"),
        ("x" * 100_000, "no such file"),
        (data_url("%%%"), "base64 is broken"),
        ("data:text/html;base64,AAAA", "must begin with data:image"),
        (b"no picture", "not an image"),
        (b"", "not an image"),
        (png()[:200], "damaged|truncated"),
        (VALUES.astype(np.float32), "before it is normalised"),
        (np.full((4, 4, 3), np.nan), "before it is normalised"),
        (VALUES.astype(np.int64) - 1000, "integers must be 0"),
        (np.zeros((4, 5, 6, 7), np.uint8), r"\[4, 5, 6, 7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (np.zeros((4, 4), bool), "bool"),
        ({}, "holds none"),
        (3.5, "float"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_told(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_picture(given)
    assert len(str(caught.value)) < 400 and "image_folder" not in str(caught.value)


def test_videos(tmp_path):
    frames = [noise(i, (30, 40)) for i in range(3)]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    want = [np.asarray(frame) for frame in frames]
    for given in (
        frames,
        np.stack(want),
        torch.from_numpy(np.stack(want)).permute(0, 3, 1, 2),
        [tmp_path / f"{i}.png" for i in range(3)],
        tmp_path,
        {"url": str(tmp_path)},
    ):
        assert [np.asarray(frame).tolist() for frame in open_video(given)] == [frame.tolist() for frame in want]
    assert len(open_video(frames, FrameSampling(video_max_frames=3, video_force_sample=True))) == 3
    for some in (FrameSampling(video_fps=2.0), FrameSampling(video_max_frames=2, video_force_sample=True)):
        assert len(open_video(tmp_path, some)) == (2 if some.video_force_sample else 3)
        with pytest.raises(ValueError, match="3 frames were given as they are: choose among them"):
            open_video(frames, some)
    for given, message in (("https://x.y/a.mp4", "nothing is fetched"), ([], "without frames"), (b"x", "as bytes")):
        with pytest.raises(ValueError, match=message):
            open_video(given)


def test_a_video_file_in_a_chat(processor, tmp_path):
    av = pytest.importorskip("av")
    pytest.importorskip("decord")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = 64, 64
        for i in range(12):
            for packet in stream.encode(av.VideoFrame.from_image(noise(i))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)

    def grid(**options):
        message = {"role": "user", "content": [{"type": "video", "video": str(path)}, {"type": "text", "text": "?"}]}
        return processor.apply_chat_template([message], tokenize=True, **options)["grid_thw"].tolist()

    assert grid() == [[3, 8, 8]]
    assert grid(num_frames=5) == [[5, 8, 8]]
    assert grid(processor_kwargs={"fps": 2.0}) == [[6, 8, 8]]
    assert grid(do_sample_frames=False) == [[12, 8, 8]]
    for wrong in ({"fps": [2.0]}, {"fps": True}, {"do_sample_frames": "no"}, {"do_sample_frames": False, "fps": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            grid(**wrong)


a, b, c = (noise(i) for i in range(3))


@pytest.mark.parametrize(
    ("given", "counts", "shares"),
    [
        ([a, b, c], [2, 1], [[a, b], [c]]),
        ([[a, b], [c]], [2, 1], [[a, b], [c]]),
        ([[], [a]], [0, 1], [[], [a]]),
        ([None, (a,)], [0, 1], [[], [a]]),
        ([], [0, 0], [[], []]),
        ([[a], [b]], [2, 0], "text 0 has 2 image placeholders, and 1 images"),
        ([[a], [b]], [1, 0], "text 1 has 0 image placeholders, and 1 images"),
        ([[a], [b]], [2], "for 2 rows, and there are 1"),
        ([[a, b]], [1, 1], "for 1 rows, and there are 2"),
        ([[a], b], [1, 1], "some images are given in lists"),
        ([a], [1, 1], "text 1 has 1 image placeholders, and of the 1 images .* 0 are left"),
        ([a, b, c], [1, 1], "1 images were given that no <image>"),
    ],
)
def test_pictures_go_to_their_rows(given, counts, shares):
    if isinstance(shares, str):
        with pytest.raises(ValueError, match=shares):
            share(nested(given), counts, "image")
    else:
        assert share(nested(given), counts, "image") == shares


@pytest.mark.parametrize(
    ("given", "counts", "shares"),
    [
        ([a, b], [1], [[[a, b]]]),
        ([[a, b], [c]], [1, 1], [[[a, b]], [[c]]]),
        ([[[a, b]], [[c], [a]]], [1, 2], [[[a, b]], [[c], [a]]]),
        ("f.mp4", [1], [["f.mp4"]]),
        (["f.mp4", "g.mp4"], [1, 1], [["f.mp4"], ["g.mp4"]]),
        ([["f.mp4"], []], [1, 0], [["f.mp4"], []]),
        (["f.mp4", [a, b]], [1, 1], [["f.mp4"], [[a, b]]]),
        ([["f.mp4"], ["g.mp4"]], [2, 0], "text 0 has 2 video placeholders, and 1 videos"),
        ([[[a]], [[b]]], [2, 0], "text 0 has 2 video placeholders, and 1 videos"),
        ([[a], [b]], [1, 0], "1 videos were given that no <video>"),
    ],
)
def test_videos_go_to_their_rows(given, counts, shares):
    if isinstance(shares, str):
        with pytest.raises(ValueError, match=shares):
            share(nested_videos(given), counts, "video")
    else:
        assert share(nested_videos(given), counts, "video") == shares


def test_pictures_that_can_be_read_once(processor):
    want = processor(text=["<image>a", "<image><video>b"], images=[a, b], videos=[[a, c]])
    given = {"images": iter([a, b]), "videos": iter([[a, c]])}
    got = processor(text=["<image>a", "<image><video>b"], **given)
    assert all(torch.equal(want[name], got[name]) for name in want)
    for file in (io.BytesIO(b"GIF89a"), open(__file__, "rb")):
        with file, pytest.raises(ValueError, match="give a PIL image"):
            processor(text="<image>a", images=file)


def test_rows_that_disagree_are_refused_by_the_processor(processor):
    with pytest.raises(ValueError, match="text 0 has 2 image placeholders, and 1 images"):
        processor(text=["<image><image>x", "y"], images=[[a], [b]])
    out = processor(text=["<image>x", "y"], images=[[a], []])
    assert (out["mm_token_type_ids"] == 1).sum(1).tolist() == [64, 0]


def test_an_image_opened_lazily_stays_open(tmp_path):
    IMAGE.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as lazy:
        open_picture(lazy)
        open_picture(lazy)
