"""The model `cambrian_gaze` of lmms-eval. That program imports this module; nothing here does.

Answers come from the same code as those of `cambrian-gaze eval run`: in batches, counted against the cost model, and
kept in a journal whose keys hold the fingerprint of the weights. lmms-eval's own cache (`--use_cache`) has no such key.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import make_policy, options_known
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.answers import answer_questions
from cambrian_gaze.evaluation.fingerprint import processor_fingerprint, weights_fingerprint
from cambrian_gaze.evaluation.journal import Journal, entry_key
from cambrian_gaze.evaluation.lmms.messages import loaded, media_fingerprints, outline
from cambrian_gaze.evaluation.questions import AnswerOptions, Question
from cambrian_gaze.evaluation.results import journal_path, journals
from cambrian_gaze.extras import require
from cambrian_gaze.plugins import load_plugins

_lmms = require("lmms_eval.api.model", extra="lmms").lmms
_ONLY = "cambrian_gaze answers tasks of output_type generate_until"
_SAMPLING = ("temperature", "top_p", "top_k")
_FRAME_ARGUMENTS: dict[str, tuple[str, type]] = {
    "fps": ("video_fps", float),
    "max_frames": ("video_max_frames", int),
    "video_force_sample": ("video_force_sample", bool),
    "video_backend": ("video_backend", str),
    "video_timeout": ("video_timeout", float),
}
"""Model argument → field of `FrameSampling` and its type; lmms-eval's own models have the first two by these names."""


class CambrianGaze(_lmms):
    """Args, as in `--model_args pretrained=DIR,top_k=2`:

    pretrained: folder of `save_pretrained`, or a Hub name.
    batch_size: answers at a time, per process.
    device: default: cuda where there is one, each process its own.
    fps, max_frames, video_force_sample, video_backend, video_timeout: frames of a video, see `FrameSampling`.
    journal: folder where answers are kept, so that a run that was killed goes on; default: they are not kept.
    system: what the system turn says; default: as the checkpoint has it.
    plugin: Python files of the user's own that register things, joined by colons; they are run as they are.
    policy: a baseline of `cambrian_gaze.baselines` in the place of routing, its options beside it, as in
        `policy=snapkv,budget=72`.
    gaze: run-time options of the gaze, such as top_k, keep_ratio, kv_budget; none: as the checkpoint has it.

    Raises: ValueError for an option that neither the policy nor the gaze has.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        journal: str | None = None,
        system: str | None = None,
        plugin: str | None = None,
        **more: Any,
    ) -> None:
        """`more`: those of frames, of a policy and of the gaze."""
        from accelerate import Accelerator

        from cambrian_gaze.models.loading import load_to_answer

        super().__init__()
        if max_batch_size is not None or not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"--batch_size {batch_size}, max {max_batch_size}: give a number from 1, and no max")
        load_plugins([] if plugin is None else str(plugin).split(os.pathsep))
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = device if device and self._world_size == 1 else self.accelerator.device
        model, self._processor = load_to_answer(pretrained, system)
        self._model = model.to(self.device)
        self._batch_size = int(batch_size)
        self._sampling, gaze = _frames_and_gaze(more)
        self._policy, self._gaze = _policy_and_gaze(gaze)
        limits = AnswerOptions(gaze=self._gaze, policy=self._policy)
        config = limits.gaze_config(model)
        self._identity = {
            "weights": weights_fingerprint(model),
            "processor": processor_fingerprint(self._processor),
            "gaze": config.to_dict(),
            "frames": self._sampling.identity(),
            **limits.policy_identity(config),
        }
        self._discarded = tempfile.TemporaryDirectory() if journal is None else None
        self._folder = Path(journal if self._discarded is None else self._discarded.name)

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answers in the order of the requests.

        Raises: RuntimeError where the counted KV entries differ from the cost model.
        """
        instances = require("lmms_eval.api.instance", extra="lmms")
        asked: dict[str, dict[str, Question]] = defaultdict(dict)
        seen: Counter[tuple[Any, ...]] = Counter()
        keys, stops = [], []
        for request in requests:
            _, to_messages, arguments, number, task, split = request.args
            generation, until = _generation(arguments)
            document = self.task_dict[task][split][number]
            # lmms-eval repeats a request to sample several answers, and to give all processes equally many.
            seen[task, number] += generation["do_sample"]
            question = self._question(f"{task} {number}", to_messages, document, generation, seen[task, number])
            asked[json.dumps(generation, sort_keys=True)][question.key] = question
            keys.append(question.key)
            stops.append(until)
        entries: dict[str, dict[str, Any]] = {}
        with (
            Journal(journal_path(self._folder, self.rank), journals(self._folder)) as journal,
            tqdm(total=len(set(keys)), desc="answering", unit="answer", disable=self.rank != 0) as bar,
        ):
            self.accelerator.wait_for_everyone()  # no journal grows before all processes have read it
            for text, questions in asked.items():
                options = AnswerOptions(json.loads(text), self._gaze, self._policy, batch_size=self._batch_size)
                mine = list(questions.values())
                found = answer_questions(self._model, self._processor, mine, journal, options, bar.update)
                entries.update(zip(questions, found, strict=True))
        if self.rank == 0:
            print(_attended([entry["attended"] for entry in entries.values()]))
        return [
            instances.GenerationResult(
                _cut(entries[key]["answer"], until), instances.TokenCounts(output_tokens=len(entries[key]["tokens"]))
            )
            for key, until in zip(keys, stops, strict=True)
        ]

    def _question(
        self, name: str, to_messages: Any, document: Any, generation: dict[str, Any], repeat: int
    ) -> Question:
        messages = to_messages(document)
        shown = outline(messages)
        media = media_fingerprints(messages)
        key = entry_key(id=name, prompt=shown, media=media, generation=generation, repeat=repeat, **self._identity)
        return Question(name, shown, key, lambda: loaded(to_messages(document), self._sampling))

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Not offered."""
        raise NotImplementedError(f"{_ONLY}; this one wants likelihoods")

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        """Not offered."""
        raise NotImplementedError(f"{_ONLY}; this one has several rounds")


def _frames_and_gaze(given: dict[str, Any]) -> tuple[FrameSampling, dict[str, Any]]:
    """Which frames of a video are shown, and the other options: those of the gaze. Raises ValueError."""
    forced = given.get("video_force_sample", False)
    if not isinstance(forced, bool):
        raise ValueError(f"video_force_sample={forced} must be True or False")
    frames = {
        field: kind(given[name]) for name, (field, kind) in _FRAME_ARGUMENTS.items() if given.get(name) is not None
    }
    return FrameSampling(**frames), {name: value for name, value in given.items() if name not in _FRAME_ARGUMENTS}


def _policy_and_gaze(given: dict[str, Any]) -> tuple[VisiblePolicy | None, dict[str, Any]]:
    """The policy that is named, if one is, with those of the options that are its own, and the others: the gaze's.
    Raises ValueError."""
    rest = {name: value for name, value in given.items() if name != "policy"}
    if given.get("policy") is None:
        return None, rest
    name = str(given["policy"])
    own = {key: rest.pop(key) for key in options_known(name) if key in rest}
    return make_policy(name, own), rest


def _generation(arguments: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A task's generation options as keywords of `generate`, and the texts that end an answer."""
    given = {name: value for name, value in arguments.items() if value is not None}
    until = given.get("until", [])
    temperature = float(given.get("temperature", 0.0))
    sample = temperature > 0 and bool(given.get("do_sample", True))
    generation = {
        "max_new_tokens": int(given.get("max_new_tokens", given.get("max_gen_toks", 1024))),
        "do_sample": sample,
        "num_beams": int(given.get("num_beams", 1)),
    }
    if sample:
        generation |= {name: given[name] for name in _SAMPLING if name in given}
    return generation, [until] if isinstance(until, str) else [text for text in until if text]


def _cut(answer: str, until: list[str]) -> str:
    """The answer up to the first of the texts that end it; blank space before it does not count."""
    if not until:
        return answer
    answer = answer.strip()
    return answer[: min((answer.find(text) for text in until if text in answer), default=len(answer))]


def _attended(counts: list[dict[str, float]]) -> str:
    """One line about the KV entries that were counted."""
    visual, context, of = (sum(c[name] for c in counts) / max(len(counts), 1) for name in ("visual", "context", "of"))
    return f"KV entries attended per query, head and layer, counted: {visual:g}+{context:g} of {of:g} visual tokens"
