"""Requests to a server on this machine, by http.client."""

import base64
import http.client
import io
import json
from typing import Any

from PIL import Image

from cambrian_gaze.serving.server import ChatServer

COMPLETIONS = "/v1/chat/completions"


def data_url(kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture(kind)).decode()}"


def picture(kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, format=kind)
    return file.getvalue()


def user(*parts: Any) -> list[dict[str, Any]]:
    """A message of the user: a text, or parts of which a text is one."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return [{"role": "user", "content": parts[0]}]
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def shows(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


ABOUT_A_PICTURE = [{"role": "system", "content": "Be brief."}, *user(shows(data_url()), "Read B3.")]


def ask(server: ChatServer, body: Any, path: str = COMPLETIONS, method: str = "POST") -> tuple[int, bytes]:
    """Status and content of an answer. `body`: bytes, or what becomes JSON; None: a GET."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    try:
        if body is None:
            connection.request("GET" if method == "POST" else method, path)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def whole(server: ChatServer, **body: Any) -> dict[str, Any]:
    status, content = ask(server, {"model": "tiny", "messages": ABOUT_A_PICTURE, "temperature": 0, **body})
    assert status == 200, content
    return json.loads(content)


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def events_of(content: bytes) -> list[dict[str, Any]]:
    """The events of a stream that ended well."""
    events = content.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def said_in_stream(content: bytes) -> str:
    choices = [choice for event in events_of(content) for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)
