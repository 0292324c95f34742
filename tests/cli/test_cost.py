import pytest

from cambrian_gaze.cli.main import main


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--grid", "24x24", "--region", "6x6", "--top_k", "2"], "2 16 72 4 76 576 13.2%".split()),
        (["--grid", "12x12", "--region", "3x3", "--top_k", "6"], "6 16 54 4 58 144 40.3%".split()),
        (["--grid", "8x24x24", "--region", "1x6x6", "--top_k", "20"], "20 128 720 32 752 4608 16.3%".split()),
    ],
)
def test_numbers_of_the_paper(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *arguments]) == 0
    assert rows(capsys.readouterr().out) == [expected]


def test_several_images_and_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--grid", "24x24", "24x24", "--top_k", "2", "32"]) == 0
    k_2, k_32 = rows(capsys.readouterr().out)
    assert k_2[1:6] == ["32", "72", "8", "80", "1152"]
    assert k_32[2:6] == ["1152", "8", "1160", "1152"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "24"], "'24' is not like 24x24"),
        (["--grid", "0x4"], "'0x4' is not like 24x24"),
        (["--top_k", "0"], "'0' is no integer of at least 1"),
        (["--num_context_tokens", "-1"], "num_context_tokens must be an integer of at least 0"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["cost", *arguments])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
