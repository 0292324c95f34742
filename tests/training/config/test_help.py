from cambrian_gaze.training.config.config import ARGUMENT_CLASSES, field_docs
from cambrian_gaze.training.config.help import short_help
from cambrian_gaze.training.launch import launch


def test_short_help_names_every_field_of_ours() -> None:
    text = short_help()
    for cls in ARGUMENT_CLASSES:
        for name in field_docs(cls):
            assert f"  --{name}  " in text, name


def test_help_and_no_argument(capsys) -> None:
    assert launch.main(["--help"]) == 0
    assert launch.main([]) == 2
    assert launch.main(["--nproc_per_node", "none"]) == 2
    assert "whole number of processes" in capsys.readouterr().err
