"""The chat endpoint by real HTTP requests."""

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.serve.chat import ChatModel, parse_request, picture_of
from cambrian_gaze.models.serve.server import MAX_BODY, ChatServer


def data_url(kind: str = "png") -> str:
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


ABOUT_A_PICTURE = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": "Read B3."}],
    },
]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    chat = ChatModel(model, CambrianGazeProcessor.from_preset("tiny"), "tiny", {"top_k": 2})
    server = ChatServer(chat, port=0, max_new_tokens=6)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: ChatServer, body: Any, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def whole(server: ChatServer, **body: Any) -> dict[str, Any]:
    status, content = ask(server, {"model": "tiny", "messages": ABOUT_A_PICTURE, "temperature": 0, **body})
    assert status == 200, content
    return json.loads(content)


def test_an_answer_about_a_picture_is_what_generate_gives(server: ChatServer) -> None:
    answer = whole(server)
    chat = server.chat
    request = parse_request({"messages": ABOUT_A_PICTURE, "temperature": 0, "max_tokens": 6})
    inputs = chat.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=True)
    ids = chat.model.generate(**inputs, gaze={"top_k": 2}, do_sample=False, max_new_tokens=6)
    new = ids[0, inputs["input_ids"].shape[1] :]
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": chat.processor.tokenizer.decode(new, skip_special_tokens=True),
    }
    assert choice["finish_reason"] == "length" and answer["object"] == "chat.completion"
    prompt = inputs["input_ids"].shape[1]
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 6, "total_tokens": prompt + 6}
    assert (answer["gaze"]["visual"], answer["gaze"]["context"]) == (8, 4), "K=2 of regions of 4"


def test_the_budget_is_the_requests(server: ChatServer) -> None:
    assert whole(server, gaze={"top_k": 1})["gaze"]["visual"] == 4
    assert whole(server, gaze={"keep_ratio": 1.0})["gaze"]["visual"] == 64


def said_in_stream(content: bytes) -> str:
    events = content.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_a_stream_says_the_same(server: ChatServer) -> None:
    expected = whole(server)
    body = {"messages": ABOUT_A_PICTURE, "temperature": 0, "stream": True}
    status, content = ask(server, body)
    assert status == 200
    events = content.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == expected["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == expected["usage"] and chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_text_sampling_stops_and_several_at_once(server: ChatServer) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 1.0, "seed": 3, "top_p": 0.9}
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, body))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {json.loads(content)["choices"][0]["message"]["content"] for status, content in answers if status == 200}
    assert len(answers) == 3 and len(texts) == 1, "the same seed, the same answer"
    (text,) = texts
    end = next(letter for letter in reversed(text) if letter.isascii())  # untrained: some of it is no text
    stopped = json.loads(ask(server, body | {"stop": ["not in it", end]})[1])
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(end)], "before the stop text"
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert said_in_stream(ask(server, body | {"stop": end, "stream": True})[1]) == text[: text.index(end)]


def test_requests_as_transformers_chat_sends_them(server: ChatServer) -> None:
    from transformers import GenerationConfig

    status, content = ask(server, {"model": "tiny"}, "/load_model")
    assert status == 200 and json.loads(content.decode().removeprefix("data: "))["status"] == "ready"
    assert ask(server, {"model": "other"}, "/load_model")[0] == 404
    options = GenerationConfig(max_new_tokens=3, do_sample=False).to_json_string()
    assert whole(server, temperature=None, generation_config=options)["usage"]["completion_tokens"] == 3
    status, content = ask(server, {"messages": ABOUT_A_PICTURE, "generation_config": '{"num_beams": 4}'})
    assert status == 400 and b"num_beams" in content


def test_models_and_health(server: ChatServer) -> None:
    assert json.loads(ask(server, None, "/v1/models")[1])["data"][0]["id"] == "tiny"
    assert ask(server, None, "/health")[0] == 200
    assert ask(server, None, "/etc/passwd")[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "Expecting"),
        ([], 400, "JSON object"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role system, user or assistant"),
        ({"tools": []}, 400, "not supported here: tools"),
        ({"n": 2}, 400, "n must be 1"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"stop": 5}, 400, "stop must be a text"),
        ({"stop": ["a", ""]}, 400, "none of them empty"),
        ({"max_tokens": 5000}, 400, "exceed the 2048 positions"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"gaze": {"topk": 1}}, 400, "did you mean 'top_k'"),
        ({"model": "other"}, 404, "'other' is not served here"),
    ],
)
def test_bad_requests_say_why(server: ChatServer, body: Any, status: int, said: str) -> None:
    if isinstance(body, dict):
        body = {"messages": [{"role": "user", "content": "Hello"}], **body}
    got, content = ask(server, body)
    assert got == status
    assert said in json.loads(content)["error"]["message"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1/a.png", "fetches no addresses"),
        ("file:///etc/passwd", "fetches no addresses"),
        ("data:text/plain;base64,AAAA", "fetches no addresses"),
        ("data:image/png;base64,%%%", "base64 is broken"),
        ("data:image/png;base64,AAAA", "image"),
        (None, "fetches no addresses"),
    ],
)
def test_pictures_come_with_the_request_or_not_at_all(url: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        picture_of(url)
    assert picture_of(data_url("jpeg")).size == (256, 256)


def test_a_body_that_is_too_large_is_not_read(server: ChatServer) -> None:
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_openai_client_understands_it(server: ChatServer) -> None:
    openai = pytest.importorskip("openai")
    host, port = server.server_address
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none")
    done = client.chat.completions.create(
        model="tiny", messages=ABOUT_A_PICTURE, max_tokens=4, temperature=0, extra_body={"gaze": {"top_k": 1}}
    )
    options = {"max_tokens": 4, "temperature": 0, "extra_body": {"gaze": {"top_k": 1}}}
    streamed = client.chat.completions.create(model="tiny", messages=ABOUT_A_PICTURE, stream=True, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == done.choices[0].message.content and done.usage.completion_tokens == 4
