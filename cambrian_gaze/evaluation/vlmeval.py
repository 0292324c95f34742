"""A saved model with the methods that VLMEvalKit asks of one; nothing of VLMEvalKit is imported.

Register it there as `partial(CambrianGazeVLM, model_path="runs/gaze", top_k=2)` among `supported_VLM`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.lmms.messages import loaded

Item = Mapping[str, str] | str


class CambrianGazeVLM:
    """Greedy answers to interleaved text, images and videos, one at a time.

    Args:
        model_path: folder of `save_pretrained`, or a Hub name.
        device: default: cuda where there is one.
        system: what the system turn says; default: as the checkpoint has it.
        gaze: run-time options of the gaze, such as top_k; none: as the checkpoint has it.

    Raises: ValueError for an option that the gaze does not have.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True
    is_api = False

    def __init__(
        self,
        model_path: str,
        max_new_tokens: int = 1024,
        fps: float = 1.0,
        max_frames: int = 64,
        device: str | None = None,
        system: str | None = None,
        **gaze: Any,
    ) -> None:
        import torch

        from cambrian_gaze.models.loading import load_to_answer

        model, self.processor = load_to_answer(model_path, system)
        model.config.gaze_config.override(**gaze)
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.max_new_tokens, self.gaze = max_new_tokens, gaze
        self.sampling = FrameSampling(video_fps=fps, video_max_frames=max_frames)
        self.dump_image_func: Callable[[Any], Any] | None = None

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """False: the benchmark's own prompts."""
        return False

    def set_dump_image(self, dump_image_func: Callable[[Any], Any]) -> None:
        """How the benchmark writes a row's pictures to files."""
        self.dump_image_func = dump_image_func

    def dump_image(self, line: Any, dataset: str | None) -> Any:
        """The files of a row's pictures."""
        return self.dump_image_func(line)

    def generate(self, message: Item | Sequence[Item], dataset: str | None = None) -> str:
        """The answer to text, or to parts {"type": "text" | "image" | "video", "value": text or path}. Bare texts in a
        sequence count as text. Raises: ValueError for a part of another type, MediaError naming a file."""
        parts = [message] if isinstance(message, (str, Mapping)) else message
        parts = [{"type": "text", "value": part} if isinstance(part, str) else part for part in parts]
        return self.generate_inner(parts, dataset)

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """As `generate`, for parts."""
        content = [
            {"type": part["type"], "text" if part["type"] == "text" else "url": part["value"]} for part in message
        ]
        messages = [{"role": "user", "content": content}]
        inputs = self.processor.apply_chat_template(
            [loaded(messages, self.sampling)], add_generation_prompt=True, tokenize=True
        ).to(self.model.device)
        length = {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        tokens = self.model.generate(**inputs, **length, gaze=self.gaze)[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(tokens, skip_special_tokens=True)
