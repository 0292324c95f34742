"""Tiny data and training runs."""

import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "preset": "tiny",
    "model_overrides": json.dumps(
        {
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
            "gaze": {"image": {"region_size": [1, 1, 1], "top_k": 2}},
        }
    ),
    "per_device_train_batch_size": 2,
    "max_steps": 8,
    "logging_steps": 1,
    "save_steps": 3,
    "learning_rate": 1e-2,
    "mm_projector_lr": 1e-3,
    "weight_decay": 0.1,
    "warmup_ratio": 0.25,
    "lr_scheduler_type": "cosine",
    "use_cpu": True,
    "disable_tqdm": True,
    "log_level": "error",
    "random_k": True,
}


def write_data(folder: Path, rows: list[str]) -> Path:
    """One record per letter: `i` an image, `t` text only, `b` an image that is no image. Answers differ in length."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    lines = []
    for number, kind in enumerate(rows):
        answer = "Read" + " B3 7" * (1 + number % 3)
        record = {
            "id": str(number),
            "conversations": [{"from": "human", "value": "Read B3"}, {"from": "gpt", "value": answer}],
        }
        if kind != "t":
            name = f"{number}.png"
            if kind == "i":
                Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name)
            else:
                (folder / name).write_bytes(b"not an image")
            record["image"] = name
            record["conversations"][0]["value"] = "<image>\nRead B3"
        lines.append(json.dumps(record))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def flags(data: Path, output: Path, **changes: object) -> list[str]:
    """The command line of a tiny run."""
    values = {**TINY, "data_path": data, "image_folder": data.parent, "output_dir": output, **changes}
    return [f"--{key}={value}" for key, value in values.items() if value is not None]


def run(argv: list[str], kill_at: int | None = None) -> int:
    """Train; with `kill_at`, die by SIGKILL in that step, between the backward pass and the optimizer."""
    from transformers import TrainerCallback

    from cambrian_gaze.training.run import main

    class Kill(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return main(argv, [Kill()])


def run_noting_errors(argv: list[str], note: str) -> int:
    """As `run`; what a rank says on stderr goes to `note`, its number appended."""
    with open(f"{note}{os.environ.get('RANK', 0)}", "w") as file, contextlib.redirect_stderr(file):
        return run(argv)
