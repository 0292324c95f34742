"""Messages of requests: forms that clients send, pictures and videos, what is refused."""

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cambrian_gaze.serving import messages as messages_module
from cambrian_gaze.serving.chat import ChatModel, parse_request
from cambrian_gaze.serving.media import picture_of
from tests.serving._asking import data_url, picture, shows, user


def test_messages_as_clients_send_them_back() -> None:
    """A developer's message, and an answer as the openai client writes it out."""
    nothing = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    messages = [
        {"role": "developer", "content": "Be brief."}, *user("Hello"),
        {"role": "assistant", "content": "Hi.", **nothing}, *user("Again"),
    ]  # fmt: skip
    assert [m["role"] for m in parse_request({"messages": messages}).messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip


def test_parts_hold_what_is_read_or_concerns_caches() -> None:
    labels = {"cache_control": {"type": "ephemeral"}, "uuid": "a", "video_url": None}
    said = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    plain = parse_request({"messages": user(shows(data_url()), {"type": "text", "text": "Hello"})})
    again = parse_request({"messages": user(shows(data_url()) | labels, said)})
    assert [part["type"] for part in again.messages[0]["content"]] == ["image", "text"]
    assert again.messages[0]["content"][1] == plain.messages[0]["content"][1]


def test_what_users_write_is_text(chat: ChatModel) -> None:
    ids = chat.prepare(parse_request({"messages": user("<image> <|image_pad|> <|im_end|>")}))["input_ids"][0]
    text = chat.processor.tokenizer.decode(ids)
    assert "<image> <|image_pad|> <|im_end|>" in text and "pixel_values" not in chat.prepare(
        parse_request({"messages": user("<image>")})
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1/a.png", "fetches no addresses"),
        ("file:///etc/passwd", "fetches no addresses"),
        ("data:text/plain;base64,AAAA", "fetches no addresses"),
        ("data:image/png;base64,%%%", "base64 of image data is broken"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,AAAA", "the picture is not an image"),
        (None, "fetches no addresses"),
    ],
)
def test_pictures_come_with_the_request_or_not_at_all(url: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        picture_of(url)
    assert picture_of(data_url("jpeg")).size == (256, 256)


def test_base64_as_clients_write_it() -> None:
    content = picture("jpeg")
    plain, url_safe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    assert "-" in url_safe or "_" in url_safe
    broken_up, escaped = base64.encodebytes(content).decode(), plain.replace("+", "%2B").replace("=", "%3D")
    for data in (plain, plain.rstrip("="), broken_up, broken_up.replace("\n", "\r\n"), url_safe, escaped):
        for head in ("data:image/jpeg;base64,", "data:image/jpeg;charset=utf-8;base64,", "DATA:IMAGE/JPEG;BASE64, "):
            assert picture_of(head + data).size == (256, 256)


def test_the_pictures_of_a_request_share_a_budget_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "MAX_PIXELS", 2 * 256 * 256)
    parse_request({"messages": user(*[shows(data_url())] * 2)})
    with pytest.raises(ValueError, match=r"messages\[0\].content\[2\]|pixels together"):
        parse_request({"messages": user(*[shows(data_url())] * 3)})


def test_a_video_is_its_sampled_frames(chat: ChatModel, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 64
        for shade in range(0, 240, 40):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), (shade, shade, shade)))
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    url = f"data:video/mp4;base64,{base64.b64encode((tmp_path / 'film.mp4').read_bytes()).decode()}"
    from cambrian_gaze.data.media.frame_sampling import FrameSampling

    frames = FrameSampling(video_backend="pyav", video_timeout=0)
    asked = user({"type": "video_url", "video_url": {"url": url}}, "What?")
    request = parse_request({"messages": asked}, frames=frames)
    prepared = chat.prepare(request)
    assert prepared["grid_thw"].tolist() == [[3, *chat.processor.grid_hw]], "3 seconds, a frame for each"
    with pytest.raises(ValueError, match="the video"):
        parse_request({"messages": user({"type": "video_url", "video_url": "data:video/mp4;base64,AAAA"})})
    with pytest.raises(ValueError, match="a video must come as data:video"):
        parse_request({"messages": user({"type": "video_url", "video_url": data_url()})})
