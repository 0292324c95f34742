"""Rows and media from a local copy."""

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.declare import Picture, VideoRef
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows


def media(name: str, rows: BenchmarkRows, number: int = 0) -> list[Picture | VideoRef]:
    return [part for part in BENCHMARKS[name].ask(rows[number], "official") if not isinstance(part, str)]


@pytest.mark.parametrize(("name", "count"), [("mmmu_val", 2), ("mmvp", 1), ("gqa", 1)])
def test_pictures_load_as_rgb(name: str, count: int, data_root: Path) -> None:
    rows = BenchmarkRows(BENCHMARKS[name], data_root)
    pictures = media(name, rows, 3)
    assert len(pictures) == count
    assert all(rows.load(one, FrameSampling()).mode == "RGB" for one in pictures)
    assert len({rows.fingerprint(one) for one in pictures}) == count


def test_videos_load_as_frames(data_root: Path) -> None:
    rows = BenchmarkRows(BENCHMARKS["mlvu"], data_root)
    (film,) = media("mlvu", rows)
    assert len(rows.load(film, FrameSampling())) == 2
    assert len(rows.load(film, FrameSampling(video_max_frames=1))) == 1
    assert rows.fingerprint(film) != rows.fingerprint(*media("mlvu", rows, 1))


def test_images_are_joined_by_key(data_root: Path) -> None:
    rows = BenchmarkRows(BENCHMARKS["gqa"], data_root)
    first, second, third = (rows[number]["image"]["bytes"] for number in (0, 1, 2))
    assert first == second != third


def test_a_file_of_the_hub_cache_may_be_a_link(data_root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data_root / "MMVP", tmp_path / "MMVP")
    image = copy / "MMVP" / "MMVP Images" / "1.jpg"
    image.rename(tmp_path / "blob")
    image.symlink_to(tmp_path / "blob")
    rows = BenchmarkRows(BENCHMARKS["mmvp"], tmp_path)
    assert rows.load(*media("mmvp", rows), FrameSampling()).size == (40, 30)


def test_what_is_missing_is_named(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hf download lmms-lab-encoder/MME --repo-type"):
        BenchmarkRows(BENCHMARKS["mme"], tmp_path)
    (tmp_path / "lmms-lab" / "MME").mkdir(parents=True)
    with pytest.raises(ValueError, match="cannot read .*split test"):
        BenchmarkRows(BENCHMARKS["mme"], tmp_path)
    rows = BenchmarkRows(BENCHMARKS["mlvu"], data_root)
    with pytest.raises(MediaError, match="gone.mp4 is missing"):
        rows.load(VideoRef("gone.mp4"), FrameSampling())
    with pytest.raises(MediaError, match="4 bytes cannot be decoded"):
        rows.load(Picture(data=b"junk"), FrameSampling())


def test_a_repository_is_found_by_its_new_name_and_its_old_one(data_root: Path, tmp_path: Path) -> None:
    """lmms-lab's sets have other owners since; lmms-eval 0.7.3 names the new ones in its task files."""
    old = BenchmarkRows(BENCHMARKS["gqa"], data_root)
    assert old.source.dataset == "lmms-lab/GQA" and old.folder == data_root / "lmms-lab" / "GQA"
    shutil.copytree(old.folder, tmp_path / "lmms-lab-encoder" / "GQA")
    new = BenchmarkRows(BENCHMARKS["gqa"], tmp_path)
    assert new.source.dataset == "lmms-lab-encoder/GQA" and list(new) == list(old)
    owners = {one.source.dataset.split("/")[0] for one in BENCHMARKS.values()}
    assert {"lmms-lab-encoder", "lmms-eval"} < owners and "lmms-lab" not in owners


def test_on_the_hub_the_old_name_is_asked_when_the_new_one_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(path: str, config: str | None, **options: object) -> datasets.Dataset:
        asked.append((path, config))
        if path != "lmms-lab/MMBench_EN":
            raise FileNotFoundError(path)
        return datasets.Dataset.from_list([{"index": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = BenchmarkRows(BENCHMARKS["mmbench_en"])
    assert asked == [("lmms-lab-encoder/MMBench", "en"), ("lmms-lab/MMBench_EN", None)]
    assert rows.source.dataset == "lmms-lab/MMBench_EN"
    with pytest.raises(ValueError, match="cannot read lmms-lab-encoder/MMBench, .*cn.*; .* lmms-lab/MMBench_CN"):
        BenchmarkRows(BENCHMARKS["mmbench_cn"])


def test_vsi_bench_has_configurations_or_had_none(data_root: Path, tmp_path: Path) -> None:
    """`full` beside `debiased`, as lmms-eval's `vsibench.yaml` names it; copies of before have none."""
    assert BenchmarkRows(BENCHMARKS["vsibench"], data_root).source.config == "full"
    folder = tmp_path / "nyu-visionx" / "VSI-Bench"
    folder.mkdir(parents=True)
    parquet = "test-00000-of-00001.parquet"
    shutil.copy(data_root / "nyu-visionx" / "VSI-Bench" / "full" / parquet, folder / parquet)
    rows = BenchmarkRows(BENCHMARKS["vsibench"], tmp_path)
    assert rows.source.config is None and len(rows) == 4


def test_both_spellings_of_mmvps_column(data_root: Path, tmp_path: Path) -> None:
    """The parent's `mmvp_eval.py` skips a head line that begins with "lndex" as well as one with "Index"."""
    copy = shutil.copytree(data_root / "MMVP" / "MMVP", tmp_path / "MMVP" / "MMVP")
    text = (copy / "Questions.csv").read_text()
    (copy / "Questions.csv").write_text(text.replace("Index,", "lndex,"))
    rows = BenchmarkRows(BENCHMARKS["mmvp"], tmp_path)
    assert list(rows) == list(BenchmarkRows(BENCHMARKS["mmvp"], data_root)) and "lndex" not in rows.columns


def test_transparency_is_dropped_as_convert_rgb_does(data_root: Path) -> None:
    """`convert("RGB")` in the parent's and in lmms-eval's evaluations: the colours below stay, white does not come."""
    rows = BenchmarkRows(BENCHMARKS["mme"], data_root)
    for mode in ("RGBA", "P"):
        image = Image.new("RGBA", (2, 1), (200, 10, 30, 0)).convert(mode)
        if mode == "P":
            image.info["transparency"] = image.getpixel((0, 0))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        with Image.open(io.BytesIO(buffer.getvalue())) as read:
            expected = read.convert("RGB").getpixel((0, 0))
        assert rows.load(Picture(buffer.getvalue()), FrameSampling()).getpixel((0, 0)) == expected != (255, 255, 255)


def test_the_commit_of_a_local_copy_is_its_revision(data_root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data_root / "lmms-lab" / "MME", tmp_path / "lmms-lab" / "MME")
    note = copy / ".cache" / "huggingface" / "download" / "README.md.metadata"
    note.parent.mkdir(parents=True)
    note.write_text("0123456789abcdef0123456789abcdef01234567\netag\n1.0\n")
    assert BenchmarkRows(BENCHMARKS["mme"], tmp_path).revision == "0123456789abcdef0123456789abcdef01234567"


def test_the_hub_is_asked_for_the_declared_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: what `datasets` is asked for, and the commit taken from its cache, in which its own builder
    lays the rows as it does for the hub: by the commit, which is the builder's hash."""
    import datasets
    from datasets.packaged_modules.json.json import Json

    commits = ["0123456789abcdef0123456789abcdef01234567"]
    asked = []
    (tmp_path / "rows.jsonl").write_text('{"video": "v0.mp4"}\n')

    def load_dataset(path: str, config: str | None, **options: object) -> datasets.Dataset:
        asked.append((path, config, options))
        files = {"data_files": str(tmp_path / "rows.jsonl"), "cache_dir": str(tmp_path / "cache")}
        commit = commits[len(asked) % len(commits)]
        builder = Json(hash=commit, dataset_name="bench", config_name=config, **files)
        builder.download_and_prepare()
        return builder.as_dataset(split="train")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = BenchmarkRows(BENCHMARKS["mvbench"])
    assert len(asked) == len(rows) == 20 and rows[3]["config"] == asked[3][1] == "fine_grained_action"
    assert asked[0][0] == "OpenGVLab/MVBench" and asked[0][2]["revision"] == "video"
    assert rows.revision == commits[0]
    commits.append("f" * 40)
    with pytest.raises(ValueError, match="MVBench was changed while it was read"):
        BenchmarkRows(BENCHMARKS["mvbench"])
    with pytest.raises(MediaError, match="read from a local copy only"):
        rows.load(VideoRef("v0.mp4"), FrameSampling())


def test_files_of_the_hub_are_those_of_the_commit(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    rows = BenchmarkRows(BENCHMARKS["mmvp"], data_root)
    rows.folder = None
    asked = []

    def hf_hub_download(dataset: str, name: str, **options: object) -> str:
        asked.append((dataset, name, options["revision"]))
        return str(data_root / dataset / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert rows.load(*media("mmvp", rows), FrameSampling()).mode == "RGB"
    assert asked == [("MMVP/MMVP", "MMVP Images/1.jpg", "main")]
