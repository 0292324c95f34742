"""The files that repeat the declarations are current."""

from cambrian_gaze.evaluation.benchmarks import SUITES
from cambrian_gaze.evaluation.benchmarks.files import REPOSITORY, SUITE_NOTES, files
from cambrian_gaze.evaluation.suites import read_tasks


def test_suites_and_tasks_of_lmms_eval_are_written_from_the_declarations():
    remedy = "run: python -m cambrian_gaze.evaluation.benchmarks.files"
    wanted = files()
    for path, text in wanted.items():
        assert path.is_file() and path.read_text(encoding="utf-8") == text, f"{path} is not current; {remedy}"
    tasks = set((REPOSITORY / "cambrian_gaze" / "assets" / "lmms").iterdir())
    assert tasks <= set(wanted), f"tasks of no benchmark: {sorted(tasks - set(wanted))}; {remedy}"


def test_each_suite_has_a_file_that_names_its_benchmarks():
    assert set(SUITE_NOTES) == set(SUITES)
    for path in files():
        if path.parent.name == "suites":
            assert tuple(one.name for one in read_tasks(str(path))) == SUITES[path.stem]
