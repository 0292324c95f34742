"""What a configuration names and what must be there, checked before anything large is loaded."""

from __future__ import annotations

from pathlib import Path

from cambrian_gaze.data.mixture.recipe import recipe_of
from cambrian_gaze.training.config.arguments import DataArguments


def check_folders(data: DataArguments) -> None:
    """Raises: ValueError where a folder that samples are looked for in is none; RecipeError for data files."""
    for paths in (data.data_path, data.eval_data_path):
        if not paths:
            continue
        for source in recipe_of(paths, data.image_folder, data.video_folder).sources:
            for option, folder in (("image_folder", source.image_folder), ("video_folder", source.video_folder)):
                if folder is not None and not Path(folder).is_dir():
                    kind = "is no folder" if Path(folder).exists() else "does not exist"
                    raise ValueError(
                        f"{option} {folder} {kind} (for {source.path}); correct the path, relative to {Path.cwd()}"
                    )


def check_select_layer(asked: int | None, own: int | None) -> None:
    """Raises: ValueError where `mm_vision_select_layer` is not the layer that the model reads.

    Args:
        own: `vision_feature_layer` of the model. A converted tower ends at the layer that is read, so that -1 there is
            what was -2 of the whole.
    """
    same = {None: (None, -1), -1: (None, -1, -2)}.get(own, (None, own))
    if asked in same:
        return
    what = "its output after the last norm (-1)" if own is None else f"layer {own}"
    raise ValueError(
        f"mm_vision_select_layer {asked}: the model reads {what} of the tower; leave it out, or for a fresh model give "
        f"--model_overrides '{{\"vision_feature_layer\": {asked}}}'"
    )
