"""Our benchmarks as tasks of lmms-eval, which imports this module for the files in `assets/lmms`.

Rows, prompts, scorers and the way scores become one number are those of `cambrian-gaze eval run`. The environment
variable CAMBRIAN_GAZE_DATA_ROOT names local copies of the datasets, as `--data_root` does there.
"""

from __future__ import annotations

import json
import os
from typing import Any

from cambrian_gaze.evaluation.benchmarks import find, protocols
from cambrian_gaze.evaluation.benchmarks.declare import VideoRef
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.samples import read_samples
from cambrian_gaze.evaluation.tables.columns import score_column
from cambrian_gaze.extras import require

_Task = require("lmms_eval.api.task", extra="lmms").ConfigurableMessagesTask
DATA_ROOT = "CAMBRIAN_GAZE_DATA_ROOT"
_SPLIT = "test"


class BenchmarkTask(_Task):
    """The benchmark and the protocol that the file names under `metadata`.

    Metrics: `score` (as in our own runs), `missing` (samples of the scoring groups reached that have no answer, which
    count as wrong: `--limit` may cut a group) and `undecided`.

    Raises: ValueError where the rows cannot be read, and for `--use_cache`, whose answers outlive the weights.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        (self.benchmark,) = find([config["metadata"]["benchmark"]])
        (self.protocol,) = protocols(config["metadata"]["protocol"])
        length = {"max_new_tokens": self.benchmark.max_new_tokens, "do_sample": False, "num_beams": 1, "until": []}
        metrics = [
            {"metric": name, "aggregation": aggregate, "higher_is_better": name == "score"}
            for name, aggregate in (("score", self._score), ("missing", self._missing), ("undecided", self._undecided))
        ]
        values = {"task": config["task"], "metadata": config["metadata"], "test_split": _SPLIT, "metric_list": metrics}
        # Answers are scored as they were given; lmms-eval would strip blank space and what stands between <think> tags.
        values["reasoning_tags"] = "none"
        super().__init__(config={**values, "generation_kwargs": length, "process_results": _unused})

    def download(self, dataset_kwargs: Any = None) -> None:
        """Read the rows; pictures stay where they are."""
        datasets = require("datasets", extra="data")
        self._rows = BenchmarkRows(self.benchmark, os.environ.get(DATA_ROOT) or None)
        self._samples = read_samples(self.benchmark, self.protocol, self._rows)
        documents = [
            {"place": place, "id": one.id, "group": one.group, "stratum": one.stratum, "target": json.dumps(one.target)}
            for place, one in enumerate(self._samples)
        ]
        self.dataset = self.dataset_no_image = {_SPLIT: datasets.Dataset.from_list(documents)}

    def build_all_requests(self, *args: Any, **kwargs: Any) -> None:
        """As lmms-eval builds them, once it is certain that answers are not taken from its cache."""
        if getattr(getattr(self, "args", None), "use_cache", None):
            raise ValueError(
                "--use_cache keeps answers without regard to the weights and loses them when it is killed; leave it "
                "out and give the model a journal=FOLDER"
            )
        super().build_all_requests(*args, **kwargs)

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        """The prompt as text."""
        return "".join(part.get("text", "") for part in self._samples[doc["place"]].messages[0]["content"])

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        """The gold answer, as JSON."""
        return doc["target"]

    def doc_to_messages(self, doc: dict[str, Any], **rounds: Any) -> list[dict[str, Any]]:
        """The prompt with its pictures (PIL) and videos (paths)."""
        content = []
        for part in self.benchmark.ask(self._rows[self._samples[doc["place"]].row], self.protocol):
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif isinstance(part, VideoRef):
                path = str(self._rows.path(part.path).resolve())
                content.append({"type": "video", "url": path, "as_is": True, **part.clip})
            else:
                content.append({"type": "image", "url": self._rows.load(part, None), "as_is": True})
        return [{"role": "user", "content": content}]

    def process_results(self, doc: dict[str, Any], results: list[str], full_docs: Any = None) -> dict[str, Any]:
        """One answer, for each metric: they are computed when all are there."""
        answer = results[0][0] if isinstance(results[0], list) else results[0]
        line = {"place": doc["place"], "answer": answer}
        return dict.fromkeys(("score", "missing", "undecided"), line)

    def _column(self, lines: list[dict[str, Any]]) -> Any:
        answers = {line["place"]: line["answer"] for line in lines}
        reached = {self._samples[place].group for place in answers}
        return score_column(
            self.benchmark,
            self.protocol,
            (
                {
                    "id": one.id, "group": one.group, "stratum": one.stratum, "target": one.target,
                    "answer": answers.get(place),
                }
                for place, one in enumerate(self._samples)
                if one.group in reached
            ),
        )  # fmt: skip

    def _score(self, lines: list[dict[str, Any]]) -> float:
        return self._column(lines).value

    def _missing(self, lines: list[dict[str, Any]]) -> int:
        return self._column(lines).missing

    def _undecided(self, lines: list[dict[str, Any]]) -> int:
        return self._column(lines).undecided


def _unused(doc: Any, results: Any) -> None:
    """Tells lmms-eval that the metrics need no function of its own; `BenchmarkTask.process_results` is what runs."""
