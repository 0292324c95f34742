"""The configurations, recipes and tables that come with the project, for an installed copy without the repository.

In a clone they are files to read and edit: `train/`, `eval/`, `data_recipes/`. A wheel carries the same files (setup.py
copies them when it is built), so that `train/configs/stage2.yaml` means the same in both.
"""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("train", "eval", "data_recipes")
SHIPPED = Path(__file__).parent / "shipped"
"""Where a wheel has them."""
REPOSITORY = Path(__file__).parents[1]


def declaration(path: str | Path) -> Path:
    """`path` where there is such a file; otherwise, for a name such as `eval/tables/table1.yaml`, the project's own."""
    path = Path(path)
    if path.exists() or path.parts[:1] not in [(folder,) for folder in FOLDERS]:
        return path
    root = SHIPPED if SHIPPED.is_dir() else REPOSITORY
    return root / path if (root / path).is_file() else path
