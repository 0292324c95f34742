"""A run's model to the hub: safetensors, configuration, processor, lineage and card. No code, no pickles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from cambrian_gaze.files import write_text
from cambrian_gaze.hub.card import CARD, PICTURE, Score, model_card
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.folders.adapter_check import is_adapter
from cambrian_gaze.models.folders.folder_check import read_object
from cambrian_gaze.models.folders.lineage import LINEAGE, read_lineage, without_places
from cambrian_gaze.models.folders.opening import check_fit, opening, said_of
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_BESIDE = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", LINEAGE)
_BESIDE += ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_BESIDE += ("*.jinja", CARD, PICTURE)


@dataclass(frozen=True)
class Pushed:
    """What `push_to_hub` did."""

    url: str | None
    """Address of the commit; None with `dry_run`."""
    files: list[str]
    left_out: list[str]
    """Files and folders beside the model that stay here: checkpoints, logs, optimizer states."""
    card_is_new: bool


@dataclass(frozen=True)
class CardParts:
    """What the card cannot read off the files of the run."""

    scores: Sequence[Score] = ()
    """See `card.read_scores`."""
    picture: Path | str | None = None
    """A PNG of where the model looks, copied to `gaze.png`."""
    license: str | None = None


def push_to_hub(
    folder: Path | str,
    repo_id: str,
    card_parts: CardParts = CardParts(),
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload the model in `folder` to `repo_id` in one commit; the repository is made if it is not there.

    Args:
        dry_run: write the card and upload nothing.

    A `README.md` in the folder is the card, as it is; without one it is written there from the files of the run. The
    lineage is uploaded without the paths in it; the file in the folder keeps them.

    Raises: ValueError where the folder holds no whole safetensors model, or one that wants code from the hub.
    """
    folder = Path(folder)
    if is_adapter(folder):
        raise ValueError(f"{folder} holds an adapter; make it a model (cambrian-gaze merge), and push that")
    with opening(folder, copied="as it is"):
        check_model(folder)
    picture, scores = card_parts.picture, card_parts.scores
    if picture is not None and Path(picture).resolve() != (folder / PICTURE).resolve():
        shutil.copyfile(picture, folder / PICTURE)
    card_is_new = not (folder / CARD).exists()
    if card_is_new or scores:
        with said_of(f"no card can be made of {folder}"):
            card = model_card(folder, repo_id, scores, card_parts.license)
        if card_is_new:
            write_text(folder / CARD, card)
        elif (folder / CARD).read_text(encoding="utf-8") != card:
            raise ValueError(
                f"{folder / CARD} is there already and says something else than the scores given would; delete it for "
                "a new card, or leave the scores out to push it as it is"
            )
    files = files_to_push(folder)
    left_out = sorted(p.name for p in folder.iterdir() if p.name not in files)
    url = None
    if not dry_run:
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=token)
        contents = [(name, _told_lineage(folder) if name == LINEAGE else folder / name) for name in files]
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.create_commit(
            repo_id=name,
            operations=[CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents],
            revision=revision,
            commit_message="Cambrian-Gaze model",
        )
        url = str(done.commit_url)
    return Pushed(url, files, left_out, card_is_new)


def files_to_push(folder: Path) -> list[str]:
    """Names of the files that make up the model, its processor and its card."""
    patterns = (*_WEIGHTS, *_BESIDE)
    return sorted({path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _told_lineage(folder: Path) -> bytes:
    """The lineage without the places of this machine."""
    return json.dumps(without_places(read_lineage(folder)), indent=2).encode()


def check_model(folder: Path) -> None:
    """Raises ValueError unless `folder` holds a configuration without remote code and all of its safetensors, and these
    are what the configuration says."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "name the folder of a saved model"
        raise ValueError(f"{folder} holds no readable config.json ({error}); {remedy}") from error
    if "auto_map" in config:
        raise ValueError(f"{folder / 'config.json'} names code to load from the hub (auto_map); remove it")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_object(index)["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    for name in shards:
        try:
            with safe_open(str(folder / name), framework="pt") as file:
                file.keys()
        except Exception as error:
            raise ValueError(f"{folder / name} cannot be read as safetensors: {error}") from error
    if config.get("model_type") == CambrianGazeConfig.model_type:
        check_fit(CambrianGazeForConditionalGeneration, CambrianGazeConfig.from_pretrained(folder), str(folder))
