"""`data check`, `stats` and `preview` as a user runs them."""

import json
import sys

import pytest
from PIL import Image

from cambrian_gaze.cli.main import main
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(tmp_path / "a.png")
    asked = {"from": "human", "value": "<image>?"}
    talks = [[asked, {"from": "gpt", "value": "x" * n}] for n in range(1, 6)]
    rows = [{"id": f"r{n}", "image": "a.png", "conversations": talk} for n, talk in enumerate(talks)]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows[2]["image"] = "gone.png"
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    return tmp_path


def test_clean_data(folder, capsys):
    assert main(["data", "check", "good.jsonl", "--preset", "tiny", "--quarantine", "q.jsonl", "--json", "r.json"]) == 0
    said = capsys.readouterr().out
    assert "5 rows; 5 images, 0 videos" in said and "tokens per sample: median" in said and "clean: 0 of 5" in said
    assert (folder / "q.jsonl").read_text() == "" and json.loads((folder / "r.json").read_text())["clean"] is True
    assert main(["data", "preview", "good.jsonl", "--samples", "2", "--quarantine", "q.jsonl", "--out", "p.html"]) == 0
    assert "2 samples, 0 of them with an error" in capsys.readouterr().out


def test_findings(folder, capsys):
    assert main(["data", "check", "bad.jsonl", "good.jsonl", "--quarantine", "q.jsonl", "--workers", "0"]) == 1
    said = capsys.readouterr().out
    assert "1 missing media: check the path" in said and "row 3: 'gone.png' cannot be found" in said
    assert "1 malformed rows" in said and "the file ends within it" in said
    assert "tokens were not counted" in said and "findings: 2 of 11 rows" in said
    assert [json.loads(line)["row"] for line in (folder / "q.jsonl").read_text().splitlines()] == [3, 6]


def test_tokens_are_counted_with_the_system_turn_of_the_checkpoint(folder):
    processor = CambrianGazeProcessor.from_preset("tiny")
    counted = []
    for name, system in (("plain", None), ("said", "You are a helpful assistant.")):
        processor.system_prompt = system
        processor.save_pretrained(folder / name)
        assert main(["data", "check", "good.jsonl", "--model", name, "--workers", "0", "--json", "r.json"]) == 0
        counted.append(json.loads((folder / "r.json").read_text())["sources"][0]["statistics"]["tokens"]["min"])
        assert main(["data", "stats", "good.jsonl", "--model", name, "--workers", "0", "--out", "stats"]) == 0
        assert json.loads((folder / "stats" / "stats.json").read_text())["all"]["tokens"]["min"] == counted[-1]
    turn = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert counted[1] - counted[0] == len(processor.tokenizer(turn)["input_ids"])


@pytest.mark.parametrize("arguments", [["--preset", "huge"], ["--video_fps", "0"], ["--model", "nowhere/at/all"]])
def test_wrong_usage(folder, arguments, capsys):
    assert main(["data", "check", "good.jsonl", *arguments]) == 2
    assert "cambrian-gaze data check: " in capsys.readouterr().err


def test_stats_without_matplotlib_are_refused_with_the_remedy(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["data", "stats", "good.jsonl", "--out", "stats"]) == 2
    assert "pip install 'cambrian-gaze[charts]'" in capsys.readouterr().err and not (folder / "stats").exists()


def test_stats_and_preview(folder, capsys):
    assert main(["data", "stats", "good.jsonl", "--out", "stats"]) == 0
    assert json.loads((folder / "stats" / "stats.json").read_text())["all"]["tokens"]["count"] == 5
    assert all(Image.open(folder / "stats" / name).width > 1000 for name in ("lengths.png", "pictures.png"))
    main(["data", "check", "bad.jsonl", "--quarantine", "q.jsonl", "--workers", "0"])
    capsys.readouterr()
    assert main(["data", "preview", "bad.jsonl", "--samples", "2", "--quarantine", "q.jsonl", "--out", "p.html"]) == 0
    assert "3 samples, 2 of them with an error" in capsys.readouterr().out, "each row once"
    page = (folder / "p.html").read_text()
    assert "4 x 4 regions of 2 x 2 tokens" in page and "gone.png" in page
    assert main(["data", "preview", "bad.jsonl", "--rows", "99", "--out", "p.html"]) == 2
    assert "bad.jsonl has no row 99; it has 6 rows" in capsys.readouterr().err
