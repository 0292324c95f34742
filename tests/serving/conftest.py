"""A server of a tiny untrained model on a free port of this machine, and ways to ask it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.serving.chat import ChatModel
from cambrian_gaze.serving.server import ChatServer


@pytest.fixture(scope="session")
def chat() -> ChatModel:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    return ChatModel(model, CambrianGazeProcessor.from_preset("tiny"), "tiny", {"top_k": 2})


@contextmanager
def serving(chat: ChatModel, **options: Any) -> Iterator[ChatServer]:
    """A running server, ended afterwards."""
    server = ChatServer(chat, port=0, **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def server(chat: ChatModel) -> Iterator[ChatServer]:
    with serving(chat, max_new_tokens=6) as server:
        yield server
