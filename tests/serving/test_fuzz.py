"""Requests of all kinds, sound and broken, by raw sockets to a server on this machine: every one is answered, none is
called the server's fault, and neither slow clients nor those that go away keep others waiting."""

import http.client
import io
import json
import random
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cambrian_gaze.serving.chat import ChatModel
from cambrian_gaze.serving.limits import Limits
from cambrian_gaze.serving.server import ChatServer
from tests.serving._asking import ABOUT_A_PICTURE, COMPLETIONS, ask, data_url, picture, shows, user

REQUESTS = 510
GROWTH = 400 * 2**20
"""Most bytes by which this process, which serves and asks, may grow."""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 1e308, 2**63, 2**64, 10**30, -(2**70), 1e-310, "", "x", "1", "true", "\x00",
    "é" * 50, "<|im_end|>", "x" * 5000, [], [None], [[]], [1, 2], ["a", "b"], {}, {"a": 1}, {"type": "text"}, [{}],
]  # fmt: skip
FIELDS = [
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
    "stream_options", "gaze", "generation_config", "n", "tools", "tool_choice", "response_format", "logprobs", "user",
    "logit_bias", "metadata", "store", "frequency_penalty", "top_k", "best_of", "modalities", "nonsense", "",
]  # fmt: skip
GAZE = [
    "top_k", "keep_ratio", "kv_budget", "context_visible", "route_prompt", "head_granularity", "descriptor", "image",
    "descriptor_keys", "visual_queries", "visual_sees_context", "dense_layers", "min_keep_ratio", "backend", "schedule",
    "num_context_tokens", "video",
]  # fmt: skip
GENERATION = ["top_k", "temperature", "top_p", "do_sample", "repetition_penalty", "max_new_tokens", "num_beams", "x"]


def sound(rng: random.Random) -> dict[str, Any]:
    """A request that is answered."""
    body: dict[str, Any] = {"messages": rng.choice([ABOUT_A_PICTURE, *[user("Hello")] * 4, user("Hello", "you")])}
    body["max_tokens"] = rng.choice([1, 1, 1, 2])
    for name, values in {
        "stream": [True, False], "temperature": [0, 0.5, 1, 2], "top_p": [0, 0.3, 1], "seed": [0, 2**64 - 1, -1],
        "stop": ["a", ["b", "c"]], "gaze": [{"top_k": 1}, {"keep_ratio": 0.5}, {"kv_budget": 8}], "model": ["tiny"],
    }.items():  # fmt: skip
        if rng.random() < 0.3:
            body[name] = rng.choice(values)
    return body


def odd_fields(rng: random.Random) -> Any:
    body = sound(rng)
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(5)
        if kind == 0:
            body["gaze"] = {rng.choice(GAZE): rng.choice([*VALUES, "mean", "max", "causal", "unit", "kv_group", [0]])}
        elif kind == 1:
            config = {rng.choice(GENERATION): rng.choice(VALUES) for _ in range(2)}
            body["generation_config"] = rng.choice([config, json.dumps(config)])
        else:
            body[rng.choice(FIELDS)] = rng.choice(VALUES)
    return body


def odd_messages(rng: random.Random) -> Any:
    def part() -> Any:
        url = rng.choice([data_url(), data_url("jpeg")[: rng.randint(0, 400)], "https://example.com/a", *VALUES])
        kind = rng.choice(["image_url", "video_url", "text", "input_audio", "image", *VALUES])
        odd = rng.choice([{"type": kind, kind if isinstance(kind, str) else "text": url}, shows(url), *VALUES])
        return rng.choice([odd, {"type": "text", "text": rng.choice(["", "What?", "<image>"])}, shows(data_url())])

    roles = [*["user"] * 40, "system", "developer", "assistant", "tool", "USER", *VALUES]
    contents = [[part() for _ in range(rng.randint(0, 3))], rng.choice(VALUES), "Hello"]
    messages = [{"role": rng.choice(roles), "content": rng.choice(contents)} for _ in range(rng.randint(1, 3))]
    messages[0] |= {rng.choice(["name", "tool_calls", "refusal"]): rng.choice(VALUES)} if rng.random() < 0.3 else {}
    return sound(rng) | {"messages": rng.choice([messages, *VALUES]) if rng.random() < 0.2 else messages}


def odd_pictures(rng: random.Random) -> Any:
    import base64

    kind = rng.choice(["png", "jpeg", "webp", "gif", "bmp", "tiff"])
    content = bytearray(picture(kind))
    for _ in range(rng.randint(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    if kind == "png" and rng.random() < 0.3:
        content[16:24] = struct.pack(">II", 10 ** rng.randint(1, 9), 10 ** rng.randint(1, 9))  # says that it is huge
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{base64.b64encode(content).decode()}"}}
    return sound(rng) | {"messages": user(video if rng.random() < 0.1 else shows(url), "What?")}


def odd_json(rng: random.Random) -> bytes:
    text = json.dumps(rng.choice([sound, odd_fields, odd_messages])(rng))
    text = rng.choice(
        [
            text[: rng.randrange(len(text))],
            text.replace("Hello", "cut \\ud83d").replace('"max_tokens"', '"\\uDE00"', rng.randrange(2)),
            text.replace("1", "NaN").replace("2", "Infinity"),
            text[:-1] + ', "stream": 1, "stream": true}',
            text[:-1] + ', "user": ' + "[" * 5000 + "]" * 5000 + "}",
            text[:-1] + ', "gaze": ' + '{"a":' * 100_000 + "}",
            text[:-1] + ', "seed": ' + "9" * rng.choice([400, 5000]) + "}",
            "\ufeff" + text,
            "",
            "null",
            "[" * 200_000,
        ]
    )
    data = bytearray(text.encode(rng.choice(["utf-8"] * 4 + ["utf-16", "utf-32"])))
    for _ in range(rng.choice([0, 0, 1, 10])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def odd_http(rng: random.Random) -> bytes:
    """A whole request on the wire. Its sender waits for an answer."""
    body = json.dumps(sound(rng)).encode()
    length = f"Content-Length: {len(body)}\r\n"
    start = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    junk = bytes(rng.randrange(256) for _ in range(50)) + b"\r\n\r\n"
    requests = [
        start.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
        start.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + body,
        start.encode() + b"Content-Length: -5\r\n\r\n" + body,
        start.encode() + b"Content-Length: 1e3\r\n\r\n" + body,
        start.encode() + b"Content-Length: 9999999999\r\n\r\n" + body,
        start.encode() + f"{length}Content-Length: 3\r\n\r\n".encode() + body,
        start.encode() + f"{length}Expect: 100-continue\r\n\r\n".encode() + body,
        start.encode() + f"{length}X: {'y' * rng.choice([10, 10_000, 100_000])}\r\n\r\n".encode() + body,
        start.encode() + f"{length}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode() + body,
        start.encode() + f"{length}Content-Type: multipart/form-data\r\n\r\n".encode() + body,
        start.replace("1.1", "1.0").encode() + f"{length}\r\n".encode() + body,
        start.replace("Host: x\r\n", "").encode() + f"{length}\r\n".encode() + body,
        start.encode() + b"\r\n",
        f"{rng.choice(['GET', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH', 'TRACE', 'X'])} "
        f"{rng.choice([COMPLETIONS, '/', '/v1/models', '/v1/models/%00', '/health', '/%ff', '*', '/../etc'])} "
        "HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"POST /load_model HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + body,
        f"POST /v1/{rng.choice(['completions', 'embeddings', ''])} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + body,
        f"GET /{'a' * 100_000} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01" + junk,
        junk,
    ]  # fmt: skip
    return rng.choice(requests)


def on_the_wire(body: Any) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def send(address: tuple[str, int], data: bytes) -> tuple[int | None, bytes]:
    """Status (None: no answer) and content."""
    with socket.create_connection(address, timeout=60) as connection:
        try:
            connection.sendall(data)
            answer = http.client.HTTPResponse(connection, method="HEAD" if data[:5] == b"HEAD " else "POST")
            answer.begin()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            return None, repr(error).encode()


def faults(number: int, data: bytes, status: int | None, content: bytes) -> str | None:
    """What is wrong with an answer; None: nothing."""
    if status is None or not (status == 200 or 400 <= status < 500):
        return f"request {number}: {status} {content[:200]!r} to {data[:600]!r}"
    if status == 200 and content.startswith(b"data: {") and b"chat.completion.chunk" in content:
        return None if content.endswith(b"data: [DONE]\n\n") else f"request {number}: a stream without an end"
    if content and not content.startswith(b"data: "):
        answer = json.loads(content)
        if status != 200 and not {"message", "type", "param", "code"} <= answer["error"].keys():
            return f"request {number}: an error of another form: {content[:200]!r}"
    return None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_every_request_is_answered(server: ChatServer, seed: int) -> None:
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], Any]] = [
        *[odd_fields] * 3, *[odd_messages] * 2, *[odd_pictures] * 2, *[odd_json] * 2, odd_http, odd_http, sound,
    ]  # fmt: skip
    requests = []
    for number in range(REQUESTS):
        made = kinds[number % len(kinds)]
        requests.append(made(rng) if made is odd_http else on_the_wire(made(rng)))
    ask(server, {"messages": ABOUT_A_PICTURE, "max_tokens": 2})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda data: send(server.server_address, data), requests))
    found = [faults(number, requests[number], *answers[number]) for number in range(REQUESTS)]
    assert [fault for fault in found if fault] == []
    statuses = Counter(status for status, _ in answers)
    assert statuses[200] > REQUESTS / 10 and statuses[400] > REQUESTS / 4, statuses
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GROWTH
    assert requests_in_work(server) == 0


def requests_in_work(server: ChatServer) -> int:
    return json.loads(ask(server, None, "/health")[1])["requests"]


def connected(server: ChatServer, data: bytes, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    connection.connect(server.server_address)
    connection.sendall(data)
    return connection


def test_slow_clients_keep_nobody_waiting(server: ChatServer) -> None:
    """Twenty: without a word, in the middle of the head, in the middle of the body, and not reading their answer."""
    whole = on_the_wire({"messages": user("Hello"), "max_tokens": 2, "stream": True})
    slow = [connected(server, whole[:end]) for end in [0, 1, 30, 80, len(whole) - 1] * 3]
    slow += [connected(server, whole, buffer=1024) for _ in range(5)]
    start = time.monotonic()
    status, _ = ask(server, {"messages": user("Hello"), "max_tokens": 2})
    assert status == 200 and time.monotonic() - start < 2
    for connection in slow:
        connection.close()


@pytest.fixture
def endless(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers end at their limit alone: at random, an end token comes soon."""
    monkeypatch.setattr(chat.model.generation_config, "eos_token_id", None)


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_go_away_free_their_slot(server: ChatServer, stream: bool) -> None:
    """Three, of which one is answered and two wait; each would take many seconds."""
    long = on_the_wire({"messages": user("Hello"), "max_tokens": 2000, "temperature": 100, "stream": stream})
    gone = [connected(server, long) for _ in range(3)]
    end = time.monotonic() + 10
    while requests_in_work(server) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    for connection in gone:
        connection.close()
    start = time.monotonic()
    assert ask(server, {"messages": user("Hello"), "max_tokens": 1})[0] == 200
    assert time.monotonic() - start < 2
    assert requests_in_work(server) == 0


HASTY = Limits(header_seconds=0.3, body_pause=0.3, body_seconds=0.6, write_seconds=0.3)


def test_late_requests_are_told_so(chat: ChatModel, start: Any) -> None:
    whole = on_the_wire({"messages": user("Hello"), "max_tokens": 2})
    with start(chat, limits=HASTY) as server:
        for end in (20, len(whole) - 1):
            with connected(server, whole[:end]) as connection:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                assert answer.status == 408 and "in time" in json.loads(answer.read())["error"]["message"]
        with connected(server, b"") as connection:
            assert connection.recv(1) == b"", "nothing was asked"
        with connected(server, whole) as connection:  # an idle connection is not kept for ever
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200 and answer.read()
            assert connection.recv(1) == b""


def test_an_answer_that_nobody_reads_frees_its_slot(
    chat: ChatModel, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(self: ChatModel, request: Any, prepared: Any, say: Any = None, halt: Any = None) -> Any:
        while not halt.is_set():
            say("word " * 10_000)
            time.sleep(0.001)
        raise RuntimeError("halted")

    monkeypatch.setattr(ChatModel, "answer", talk)
    with start(chat, limits=HASTY) as server:
        with connected(server, on_the_wire({"messages": user("Hello"), "stream": True}), buffer=1024):
            end = time.monotonic() + 20
            time.sleep(0.1)
            while requests_in_work(server) and time.monotonic() < end:
                time.sleep(0.05)
            assert requests_in_work(server) == 0


def test_what_is_too_much_is_refused_for_now(chat: ChatModel, start: Any) -> None:
    body = on_the_wire({"messages": user("Hello"), "max_tokens": 2, "metadata": {"pad": "x" * 10_000}})
    with start(chat, limits=Limits(max_held=15_000)) as server:
        with connected(server, body[:9_000]):
            time.sleep(0.2)
            status, content = send(server.server_address, body)
            assert status == 503 and json.loads(content)["error"]["code"] == "overloaded"
        time.sleep(0.2)
        assert send(server.server_address, body)[0] == 200
    with start(chat, limits=Limits(max_waiting=0)) as server:
        connection = http.client.HTTPConnection(*server.server_address, timeout=30)
        connection.request("POST", COMPLETIONS, json.dumps({"messages": user("Hello")}))
        answer = connection.getresponse()
        assert answer.status == 503 and answer.getheader("Retry-After") == "5"
        connection.close()


@pytest.mark.usefixtures("endless")
def test_the_end_of_the_server_is_told(chat: ChatModel, start: Any) -> None:
    """To one that is answered whole, one that waits for its stream, and one that streams."""

    def long(stream: bool) -> bytes:
        return on_the_wire({"messages": user("Hello"), "max_tokens": 2000, "temperature": 100, "stream": stream})

    with ThreadPoolExecutor(3) as clients:
        with start(chat) as server:
            answers = [clients.submit(send, server.server_address, long(stream)) for stream in (True, False, True)]
            while requests_in_work(server) < 3:
                time.sleep(0.02)
        for answer in answers:
            status, content = answer.result()
            last = content.decode().strip().split("\n\n")[-1].removeprefix("data: ")
            assert status in (200, 503) and "shutting down" in json.loads(last)["error"]["message"]


def test_a_body_larger_than_the_limit_is_answered_whatever_its_form(chat: ChatModel, start: Any) -> None:
    data = io.BytesIO(b"x" * 50_000).getvalue()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:20_000], data[20_000:])) + b"0\r\n\r\n"
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n".encode()
    with start(chat, limits=Limits(max_body=30_000)) as server:
        for request in (on_the_wire(data), head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks):
            status, content = send(server.server_address, request)
            assert status == 413 and json.loads(content)["error"]["code"] == "request_too_large"
        assert ask(server, {"messages": user("Hello"), "max_tokens": 1})[0] == 200
