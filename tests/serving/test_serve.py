"""The chat endpoint by real HTTP requests."""

import base64
import http.client
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.data.conversation import messages_from_record
from cambrian_gaze.data.encode import encode_conversation
from cambrian_gaze.data.records.records import parse_record
from cambrian_gaze.serving.chat import ChatModel, parse_request
from cambrian_gaze.serving.server import MAX_BODY, ChatServer
from tests.serving._asking import (
    ABOUT_A_PICTURE,
    COMPLETIONS,
    ask,
    data_url,
    events_of,
    said_in_stream,
    shows,
    text_of,
    user,
    whole,
)


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
        "refusal": None,
    }
    assert choice["finish_reason"] == "length" and answer["object"] == "chat.completion"
    prompt = inputs["input_ids"].shape[1]
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 6, "total_tokens": prompt + 6}
    assert (answer["gaze"]["visual"], answer["gaze"]["context"]) == (8, 4), "K=2 of regions of 4"
    assert whole(server, temperature=None) | {"id": 0, "created": 0} == answer | {"id": 0, "created": 0}


@pytest.mark.parametrize("question", ["What?", "\nWhat?"])
@pytest.mark.parametrize("before", [True, False])
def test_a_prompt_has_the_tokens_of_training(chat: ChatModel, question: str, before: bool) -> None:
    """Two pictures and a question, whichever comes first: as a record of LLaVA's form is trained."""
    turns = [{"from": "human", "value": "<image>\n<image>\nWhat?"}, {"from": "gpt", "value": "A page."}]
    record = parse_record({"id": "1", "image": ["a", "b"], "conversations": turns}, "rows.jsonl", 1)
    processor = chat.processor
    trained = encode_conversation(
        messages_from_record(record), processor.tokenizer, [(1, *processor.grid_hw)] * 2, processor.num_context_tokens
    )
    pictures = [shows(data_url()), shows(data_url("jpeg"))]
    asked = user(*([*pictures, question] if before else [question, *pictures]))
    ids = chat.prepare(parse_request({"messages": asked}))["input_ids"][0].tolist()
    assert ids == trained["input_ids"][: len(ids)]
    assert [label for label in trained["labels"][: len(ids)] if label != -100] == [], "up to the answer"


def test_the_budget_is_the_requests(server: ChatServer) -> None:
    assert whole(server, gaze={"top_k": 1})["gaze"]["visual"] == 4
    assert whole(server, gaze={"keep_ratio": 1.0})["gaze"]["visual"] == 64
    hidden = whole(server, gaze={"context_visible": False})["gaze"]
    assert (hidden["visual"], hidden["context"]) == (8, 0), "the server's budget stays"


@pytest.mark.parametrize(
    ("policy", "counted"),
    [({"name": "snapkv", "budget": 7}, 7), ({"name": "recent", "budget": 5}, 5), ({"name": "hermes", "budget": 6}, 6)],
)
def test_a_policy_of_a_request_keeps_its_budget(server: ChatServer, policy: dict[str, Any], counted: int) -> None:
    """The server's own budget (K = 2) does not count beside it; the next request has it again."""
    plain = whole(server)["gaze"]
    assert whole(server, policy=policy)["gaze"]["visual"] == counted
    status, content = ask(server, {"messages": ABOUT_A_PICTURE, "policy": policy, "stream": True})
    assert status == 200 and events_of(content)[-1]["gaze"]["visual"] == counted
    traced = whole(server, policy=policy, gaze={"trace": True})["gaze"]
    assert traced["visual"] == counted and traced["trace"]["safetensors"]
    assert whole(server)["gaze"] == plain and plain["visual"] != counted


def test_a_policy_that_makes_no_sense_is_refused(server: ChatServer) -> None:
    for policy, said in (
        ("snapkv", "policy must be an object"),
        ({"budget": 8}, "policy must be an object"),
        ({"name": "snap"}, "unknown policy 'snap'; did you mean 'snapkv'?"),
        ({"name": "snapkv"}, "policy 'snapkv' needs budget"),
        ({"name": "snapkv", "budget": "all"}, "policy: "),
        ({"name": "snapkv", "budget": 8, "size": 2}, "policy 'snapkv' has no option 'size'"),
    ):
        status, content = ask(server, {"messages": ABOUT_A_PICTURE, "policy": policy})
        assert status == 400 and said in json.loads(content)["error"]["message"], content
    both = {"messages": ABOUT_A_PICTURE, "policy": {"name": "snapkv", "budget": 8}, "gaze": {"top_k": 2}}
    status, content = ask(server, both)
    assert status == 400 and "give one of them" in json.loads(content)["error"]["message"]


def test_a_policy_that_does_not_fit_the_model_is_refused(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when the prompt is there: blocks of 2x2 tokens in the 27x27 of a real tower."""
    monkeypatch.setattr(type(server.chat.model.config), "grid", (27, 27))
    body = {"messages": ABOUT_A_PICTURE, "policy": {"name": "avgpool2"}}
    status, content = ask(server, body)
    error = json.loads(content)["error"]
    assert status == 400 and error["param"] == "policy", content
    assert error["message"] == "policy: policy 'avgpool2' takes blocks of 2x2 tokens, and the grid is 27x27"
    status, content = ask(server, body | {"stream": True})
    assert json.dumps(error["message"]).encode() in content and b"[DONE]" not in content
    monkeypatch.undo()
    assert whole(server, policy={"name": "avgpool2"})["gaze"]["visual"] == 16


def test_a_stream_says_the_same(server: ChatServer) -> None:
    expected = whole(server)
    body = {"messages": ABOUT_A_PICTURE, "temperature": 0, "stream": True}
    status, content = ask(server, body | {"stream_options": {"include_usage": True}})
    assert status == 200
    *chunks, last = events_of(content)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert said_in_stream(content) == text_of(expected)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length" and chunks[-1]["gaze"] == expected["gaze"]
    assert last["usage"] == expected["usage"] and last["choices"] == []
    assert all(event["choices"] for event in events_of(ask(server, body)[1])), "usage is for who asks for it"


def test_text_sampling_stops_and_several_at_once(server: ChatServer) -> None:
    body = {"messages": user("Hello"), "temperature": 1.0, "seed": 3, "top_p": 0.9}
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, body))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {text_of(json.loads(content)) for status, content in answers if status == 200}
    assert len(answers) == 3 and len(texts) == 1, "the same seed, the same answer"
    (text,) = texts
    end = next(letter for letter in reversed(text) if letter.isascii())  # untrained: some of it is no text
    stopped = json.loads(ask(server, body | {"stop": ["not in it", end]})[1])
    assert text_of(stopped) == text[: text.index(end)], "before the stop text"
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert said_in_stream(ask(server, body | {"stop": end, "stream": True})[1]) == text[: text.index(end)]


@pytest.mark.parametrize(
    "asked", [{"temperature": 1}, {"top_p": 0.95}, {"generation_config": {"do_sample": True}}], ids=str
)
def test_what_asks_for_sampling_samples(server: ChatServer, asked: dict[str, Any]) -> None:
    def said(seed: int) -> str:
        return text_of(json.loads(ask(server, {"messages": user("Hello"), "seed": seed, **asked})[1]))

    assert len({said(seed) for seed in range(5)}) > 1
    assert said(3) == said(3)


@pytest.mark.parametrize("asked", [{"top_p": 0}, {"temperature": 0.0001, "top_p": 1}, {"temperature": 1e-300}], ids=str)
def test_the_limits_of_sampling_are_the_greedy_answer(server: ChatServer, asked: dict[str, Any]) -> None:
    answers = [text_of(whole(server, **{"temperature": None, "seed": seed, **asked})) for seed in range(2)]
    assert answers == [text_of(whole(server))] * 2


def test_a_seed_leaves_later_requests_alone(server: ChatServer) -> None:
    body = {"messages": user("Hello"), "temperature": 1.0}
    after = set()
    for _ in range(3):
        ask(server, body | {"seed": 3})
        after.add(text_of(json.loads(ask(server, body)[1])))
    assert len(after) > 1


def test_the_servers_own_sampling_holds_where_a_request_says_nothing() -> None:
    own = {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0}
    alone = {"num_beams": 1, "num_return_sequences": 1}
    assert parse_request({"messages": user("Hello")}, sampling=own).generation == own | alone
    cold = parse_request({"messages": user("Hello"), "temperature": 0}, sampling=own).generation
    assert cold == {"do_sample": False} | alone
    asked = parse_request({"messages": user("Hello"), "top_p": 0.9, "max_tokens": 3}, sampling=own).generation
    assert asked == alone | {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0, "max_new_tokens": 3}


def test_beams_that_were_saved_with_a_model_do_not_end_streams(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat.model.generation_config, "num_beams", 2)
    request = parse_request({"messages": user("Hello")}, 4)
    said: list[str] = []
    answer = chat.answer(request, chat.prepare(request), said.append)
    assert "".join(said) == answer.text == chat.answer(request, chat.prepare(request)).text


def test_the_longest_answer_is_the_requests_or_what_fits(chat: ChatModel) -> None:
    def new(**body: Any) -> int:
        return chat.prepare(parse_request({"messages": user("word " * 1000), **body}, 5000))["max_new_tokens"]

    assert new(max_tokens=3) == new(max_completion_tokens=3, max_tokens=9) == 3
    prompt = chat.prepare(parse_request({"messages": user("word " * 1000)}, 1))["input_ids"].shape[1]
    assert new() == 2048 - prompt
    with pytest.raises(ValueError, match="exceed the 2048 positions"):
        chat.prepare(parse_request({"messages": user("word " * 2500)}))


@pytest.mark.parametrize(
    "neutral",
    [
        {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"repetition_penalty": 1.0}, {"tools": []}, {"n": 1},
        {"tool_choice": "none"}, {"logprobs": False}, {"top_logprobs": 0}, {"response_format": {"type": "text"}},
        {"store": False}, {"metadata": {"chat": "1"}}, {"user": "me"}, {"service_tier": "auto"}, {"logit_bias": {}},
        {"modalities": ["text"]}, {"parallel_tool_calls": True}, {"stop": None}, {"tools": None}, {"stop": []},
        {"top_k": -1}, {"min_p": 0}, {"functions": []}, {"seed": 2**63}, {"generation_config": {"num_beams": 1}},
        {"chat_template_kwargs": {"enable_thinking": False}}, {"skip_special_tokens": True}, {"ignore_eos": False},
        {"min_tokens": 0}, {"stop_token_ids": []}, {"add_generation_prompt": True}, {"length_penalty": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_asks_for_nothing_changes_nothing(neutral: dict[str, Any]) -> None:
    plain = parse_request({"messages": user("Hello")})
    assert parse_request({"messages": user("Hello"), **neutral}).generation == plain.generation


def test_requests_as_transformers_chat_sends_them(server: ChatServer) -> None:
    from transformers import GenerationConfig

    status, content = ask(server, {"model": "tiny"}, "/load_model")
    assert status == 200 and json.loads(content.decode().removeprefix("data: "))["status"] == "ready"
    assert ask(server, {"model": "other"}, "/load_model")[0] == 404
    for config in (GenerationConfig(max_new_tokens=3, do_sample=False), GenerationConfig(max_new_tokens=3)):
        options = config.to_json_string()
        assert whole(server, temperature=None, generation_config=options)["usage"]["completion_tokens"] == 3
    status, content = ask(server, {"messages": ABOUT_A_PICTURE, "generation_config": '{"num_beams": 4}'})
    assert status == 400 and b"num_beams" in content


def test_the_client_of_transformers_chat(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from huggingface_hub import AsyncInferenceClient
    from transformers import GenerationConfig

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it would refuse this machine, too
    host, port = server.server_address
    config = GenerationConfig(max_new_tokens=4, do_sample=False).to_json_string()

    async def said(address: str) -> tuple[str, str | None]:
        text, finish = "", None
        async with AsyncInferenceClient(base_url=address) as client:
            extra = {"generation_config": config, "model": "tiny"}
            async for token in await client.chat_completion(user("Hi"), stream=True, model="tiny", extra_body=extra):
                text += token.choices[0].delta.content or ""
                finish = token.choices[0].finish_reason or finish
        return text, finish

    expected = text_of(whole(server, messages=user("Hi"), max_tokens=4))
    for address in (f"http://{host}:{port}", f"http://{host}:{port}/v1"):
        assert asyncio.run(said(address)) == (expected, "length")


def test_requests_as_open_webui_sends_them(server: ChatServer) -> None:
    """A chat with a picture and its usage, then a title; parameters that a user did not set are null."""
    unset = dict.fromkeys(["temperature", "top_p", "max_tokens", "frequency_penalty", "seed", "stop", "logit_bias"])
    chat = {"model": "tiny", "messages": ABOUT_A_PICTURE, "stream": True, "stream_options": {"include_usage": True}}
    status, content = ask(server, chat | unset)
    assert status == 200 and events_of(content)[-1]["usage"]["completion_tokens"] == 6
    title = {"model": "tiny", "messages": user("Write a title."), "stream": False, "max_completion_tokens": 5}
    assert json.loads(ask(server, title)[1])["usage"]["completion_tokens"] <= 5


def test_a_web_page_asks_where_it_may(chat: ChatModel, server: ChatServer, start: Any) -> None:
    def allowed(server: ChatServer) -> str | None:
        connection = http.client.HTTPConnection(*server.server_address, timeout=60)
        connection.request("GET", "/v1/models", headers={"Origin": "http://localhost:3000"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.getheader("access-control-allow-origin")

    assert allowed(server) is None
    with start(chat, origins=["http://localhost:3000"]) as open_server:
        assert allowed(open_server) == "http://localhost:3000"


def test_models_and_health(server: ChatServer) -> None:
    assert json.loads(ask(server, None, "/v1/models")[1])["data"][0]["id"] == "tiny"
    assert json.loads(ask(server, None, "/v1/models/tiny")[1])["id"] == "tiny"
    assert ask(server, None, "/v1/models/other")[0] == 404
    assert json.loads(ask(server, None, "/health")[1])["status"] == "ok"
    for method, path, status in (("GET", "/etc/passwd", 404), ("DELETE", COMPLETIONS, 405), ("GET", COMPLETIONS, 405)):
        got, content = ask(server, None, path, method)
        assert got == status and "/v1/chat/completions" in json.loads(content)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"messages": [], "messages": []}', 400, "twice"),
        (b'{"temperature": NaN}', 400, "NaN"),
        (b'{"messages": [{"role": "user", "content": "cut \\ud83d"}]}', 400, "half of a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "Hello"}], "model": "\\uD83D"}', 400, "half of a surrogate pair"),
        ([], 400, "JSON object"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role system, developer, user, assistant"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}], "content": "x"}]}, 400, "tool_calls"),
        ({"messages": [{"role": "assistant", "content": [shows(data_url())]}]}, 400, "belong to messages of the user"),
        ({"messages": user({"type": "input_audio"})}, 400, "messages[0].content[0]"),
        ({"messages": user(shows("https://example.com/a.png"))}, 400, "fetches no addresses"),
        ({"messages": user(shows(data_url(), detail="low"))}, 400, "detail"),
        ({"messages": user(shows(data_url()) | {"min_pixels": 4})}, 400, "part of type image_url: 'min_pixels'"),
        ({"messages": user({"type": "video_url", "video_url": "a", "fps": 2})}, 400, "messages[0].content[0]: not"),
        ({"messages": user({"type": "text", "text": "a", "image_url": "b"})}, 400, "part of type text: 'image_url'"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, 400, "does not think aloud"),
        ({"skip_special_tokens": False}, 400, "skip_special_tokens must be true"),
        ({"messages": user("word " * 3000)}, 400, "positions"),
        ({"tools": [{}]}, 400, "calls no tools"),
        ({"best": 1}, 400, "not supported here: 'best'"),
        ({"top_k": 5}, 400, '{"gaze": {"top_k": …}}'),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty must be 0"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"n": 2}, 400, "n must be 1"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"stop": 5}, 400, "stop must be a text"),
        ({"stop": ["a", ""]}, 400, "none of them empty"),
        ({"max_tokens": 5000}, 400, "exceed the 2048 positions"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": -1}, 400, "temperature"),
        ({"seed": 2**64}, 400, "seed"),
        ({"stream": "false"}, 400, "stream must be true or false"),
        ({"stream_options": {"include_usage": True}}, 400, "needs stream"),
        ({"gaze": {"topk": 1}}, 400, "did you mean 'top_k'"),
        ({"gaze": {"top_k": "x"}}, 400, "top_k"),
        ({"gaze": {"top_k": 1, "keep_ratio": 0.5}}, 400, "exactly one"),
        ({"gaze": {"backend": "flash"}}, 400, "backend cannot be set"),
        ({"gaze": {"dense_layers": 5}}, 400, "gaze"),
        ({"gaze": {"context_visible": "no"}}, 400, "context_visible"),
        ({"generation_config": '{"top_k": "abc"}'}, 400, "top_k cannot be 'abc'"),
        ({"generation_config": '{"temperature": -1}'}, 400, "temperature cannot be -1"),
        ({"generation_config": {"do_sample": False, "temperature": 0.5}}, 400, "do_sample false"),
        ({"generation_config": "{"}, 400, "no JSON"),
        ({"model": "other"}, 404, "'other' is not served here"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_say_why(server: ChatServer, body: Any, status: int, said: str, stream: bool) -> None:
    if isinstance(body, dict):
        body = {"messages": user("Hello"), **({"stream": True} if stream else {}), **body}
        if stream and "stream_options" in body:
            return
    got, content = ask(server, body)
    assert got == status
    error = json.loads(content)["error"]
    assert said in error["message"] and error["type"] == "invalid_request_error"
    assert len(content) < 2000, "values are shortened"


def test_a_body_that_is_too_large_is_refused_and_the_connection_goes_on(server: ChatServer) -> None:
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.putrequest("POST", COMPLETIONS)
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("path", ["/v1/completions", COMPLETIONS])
def test_a_refused_request_leaves_its_connection_alive(server: ChatServer, path: str) -> None:
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    for _ in range(2):
        connection.request("POST", path, json.dumps({"prompt": "x" * 100_000}))
        answer = connection.getresponse()
        assert answer.status in (400, 404) and answer.read()
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_of_the_server_is_told_as_one(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """After the first token, and without what the client need not know."""

    def fail(self: ChatModel, request: Any, prepared: Any, say: Any = None, halt: Any = None) -> None:
        if say is not None:
            say("So ")
        raise RuntimeError("secret")

    openai = pytest.importorskip("openai")
    monkeypatch.setattr(ChatModel, "answer", fail)
    status, content = ask(server, {"messages": user("Hello"), "stream": stream})
    assert status == (200 if stream else 500) and b"secret" not in content and b"[DONE]" not in content
    error = json.loads(content.decode().strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert error["type"] == "server_error" and "RuntimeError" in error["message"]
    host, port = server.server_address
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError):
        answer = client.chat.completions.create(model="tiny", messages=user("Hello"), stream=stream)
        list(answer if stream else [])


def test_openai_client_understands_it(server: ChatServer) -> None:
    openai = pytest.importorskip("openai")
    host, port = server.server_address
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    options = {"max_tokens": 4, "temperature": 0, "extra_body": {"gaze": {"top_k": 1}}}
    done = client.chat.completions.create(model="tiny", messages=ABOUT_A_PICTURE, **options)
    usage = {"stream_options": {"include_usage": True}}
    chunks = list(
        client.chat.completions.create(model="tiny", messages=ABOUT_A_PICTURE, stream=True, **options, **usage)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == done.choices[0].message.content and done.usage.completion_tokens == 4
    assert chunks[-1].usage == done.usage
    again = [*ABOUT_A_PICTURE, done.choices[0].message.model_dump(), *user("Again?")]
    assert client.chat.completions.create(model="tiny", messages=again, max_tokens=2).usage.completion_tokens == 2
    with pytest.raises(openai.BadRequestError, match="seed") as refused:
        client.chat.completions.create(model="tiny", messages=user("Hello"), stream=True, seed=2**64)
    assert refused.value.param == "seed"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.chat.completions.create(model="gpt", messages=user("Hello"))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_its_trace_through_the_openai_client(server: ChatServer, tmp_path: Path, stream: bool) -> None:
    from cambrian_gaze.viz.trace import Trace
    from cambrian_gaze.viz.viewer import viewer_page

    openai = pytest.importorskip("openai")
    host, port = server.server_address
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0)
    options = {"max_tokens": 4, "temperature": 0, "stream": stream}
    gaze = {"gaze": {"top_k": 3, "trace": True}}
    told = client.chat.completions.create(model="tiny", messages=ABOUT_A_PICTURE, extra_body=gaze, **options)
    last = list(told)[-1] if stream else told
    assert last.gaze["trace"]["format"] == "cambrian-gaze trace"
    path = tmp_path / "gaze.safetensors"
    path.write_bytes(base64.b64decode(last.gaze["trace"]["safetensors"]))
    trace = Trace.load(path)
    assert trace.prompt == "Read B3." and trace.gaze["image"]["top_k"] == 3 and trace.regions.shape[0] == 4
    assert trace.model["name"] == "tiny" and trace.items[0].size == (256, 256) and trace.logprobs is not None
    if not stream:
        assert trace.answer == told.choices[0].message.content.strip()
    assert "Read B3." in viewer_page(trace)
    plain = client.chat.completions.create(model="tiny", messages=user("Hello"), extra_body=gaze, max_tokens=2)
    path.write_bytes(base64.b64decode(plain.gaze["trace"]["safetensors"]))
    assert Trace.load(path).items == []
    with pytest.raises(openai.BadRequestError, match="trace must be true or false"):
        client.chat.completions.create(model="tiny", messages=user("Hi"), extra_body={"gaze": {"trace": "yes"}})


def test_a_trace_that_is_too_large_is_said_to_be(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from cambrian_gaze.serving import traces

    monkeypatch.setattr(traces, "MAX_TRACE", 1000)
    told = whole(server, max_tokens=1, gaze={"trace": True})
    assert "more than a file of one may (1000)" in told["gaze"]["trace"]["missing"] and text_of(told) is not None
