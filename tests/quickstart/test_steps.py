"""Steps: done once, done anew when something before them changed, resumed where they can be."""

import pytest

from cambrian_gaze.quickstart.steps import Steps


class Work:
    """Counts how often it is done, and may fail."""

    def __init__(self, folder):
        self.folder, self.calls, self.fail = folder, 0, False

    def __call__(self):
        self.calls += 1
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"part{self.calls}").write_text("x")
        if self.fail:
            raise RuntimeError("interrupted")
        return {"calls": self.calls, "share": 0.5}


@pytest.fixture
def works(tmp_path):
    return Work(tmp_path / "a"), Work(tmp_path / "b")


def do(tmp_path, works, first=1, force=False, resumes=False):
    steps = Steps(tmp_path / "steps", force)
    steps.run("first", {"n": first}, [works[0].folder], works[0])
    steps.run("second one", {"n": 1}, [works[1].folder], works[1], resumes)
    return steps


def test_done_once(tmp_path, works, capsys):
    do(tmp_path, works)
    steps = do(tmp_path, works)
    assert (works[0].calls, works[1].calls) == (1, 1)
    assert steps.result("first") == {"calls": 1, "share": 0.5} and steps.seconds.keys() == {"first", "second one"}
    assert "== second one: already done, 0 s, calls 1, share 0.500" in capsys.readouterr().out


def test_a_change_reaches_later_steps(tmp_path, works):
    do(tmp_path, works)
    do(tmp_path, works, first=2)
    assert (works[0].calls, works[1].calls) == (2, 2)
    assert [path.name for path in works[1].folder.iterdir()] == ["part2"]


def test_force_does_everything_anew(tmp_path, works):
    do(tmp_path, works)
    do(tmp_path, works, force=True)
    assert (works[0].calls, works[1].calls) == (2, 2)


@pytest.mark.parametrize(("resumes", "left"), [(True, {"part1", "part2"}), (False, {"part2"})])
def test_an_interrupted_step(tmp_path, works, resumes, left):
    works[1].fail = True
    with pytest.raises(RuntimeError, match="interrupted"):
        do(tmp_path, works, resumes=resumes)
    works[1].fail = False
    do(tmp_path, works, resumes=resumes)
    assert works[0].calls == 1 and {path.name for path in works[1].folder.iterdir()} == left


def test_a_lost_output_is_made_again(tmp_path, works):
    do(tmp_path, works)
    (works[0].folder / "part1").unlink()
    works[0].folder.rmdir()
    do(tmp_path, works)
    assert works[0].calls == 2


def test_a_folder_of_another_owner_is_left_alone(tmp_path, works):
    works[0].folder.mkdir()
    (works[0].folder / "mine").write_text("kept")
    with pytest.raises(ValueError, match="choose another --output_dir"):
        do(tmp_path, works)
    assert (works[0].folder / "mine").exists() and works[0].calls == 0
