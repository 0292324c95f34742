"""Command lines of LLaVA and Cambrian: taken where they ask for what is done, else explained all at once."""

from pathlib import Path

import pytest

from cambrian_gaze.training.config.config import ConfigError, known_keys, load
from cambrian_gaze.training.config.foreign import FLAGS, OWN_CHOICES, translate
from cambrian_gaze.training.launch import batch

LLAVA = """
--model_name_or_path m --version qwen_2 --data_path d.json --image_folder f --mm_projector_type mlp2x_gelu
--tune_mm_mlp_adapter True --freeze_backbone False --mm_use_im_start_end False --mm_use_im_patch_token False
--image_aspect_ratio pad --group_by_modality_length False --mm_patch_merge_type flat --mm_vision_select_feature patch
--lazy_preprocess True --model_max_length 4096 --num_train_epochs 1 --per_device_train_batch_size 16
--per_device_eval_batch_size 4 --gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy steps
--save_steps 500 --save_total_limit 1 --learning_rate 2e-5 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing True --dataloader_num_workers 4
--report_to none --run_name mine --remove_unused_columns False --bits 16 --lora_bias none --quant_type nf4
--frames_upbound 32 --force_sample True --mm_newline_position no_token --verbose_logging False
""".split()  # noqa: SIM905 - as the scripts spell it


def test_a_script_of_llava_runs(tmp_path: Path) -> None:
    run = load([*LLAVA, "--use_cpu", "--output_dir", str(tmp_path)])
    assert (run.data.max_length, run.data.video_max_frames, run.data.video_force_sample) == (4096, 32, True)
    assert (run.model.version, run.training.run_name) == ("qwen_2", "mine")
    assert not set(run.values) & FLAGS.keys()


def test_everything_that_cannot_be_taken_is_said_at_once(tmp_path: Path) -> None:
    wrong = {
        **{"mm_use_im_start_end": "True", "group_by_modality_length": "True", "mm_patch_merge_type": "spatial_unpad"},
        **{"image_aspect_ratio": "anyres", "version": "v1", "mm_projector_type": "sva", "nfp_head": "True"},
        **{"label_smoothing_factor": "0.1", "learning_rte": "1", "vision_tower_aux_list": "[a]", "s2": "True"},
    }
    with pytest.raises(ConfigError) as error:
        load([*(f"--{key}={value}" for key, value in wrong.items()), "--use_cpu", f"--output_dir={tmp_path}"])
    lines = str(error.value).splitlines()
    assert len(lines) == len(wrong)
    for name in wrong:
        own = [line for line in lines if line.split(": ", 1)[1].removeprefix("unknown key '").startswith(name)]
        assert len(own) == 1, name


@pytest.mark.parametrize(
    ("parts", "meant"),
    [
        ("mm_mlp_adapter", (True, None, False)),
        ("mm_language_model,mm_mlp_adapter", (False, False, False)),
        ("mm_vision_tower,mm_mlp_adapter,mm_language_model", (False, False, True)),
        ("mm_vision_tower, mm_mlp_adapter", (False, True, True)),
    ],
)
def test_tunable_parts_say_what_trains(parts: str, meant: tuple, tmp_path: Path) -> None:
    model = load([f"--mm_tunable_parts={parts}", "--use_cpu", f"--output_dir={tmp_path}"]).model
    assert (model.tune_mm_mlp_adapter, model.freeze_backbone, model.unfreeze_mm_vision_tower) == meant


def test_the_language_model_alone_cannot_train() -> None:
    assert "the projector always trains" in translate({"mm_tunable_parts": "mm_language_model"})[1][0]


def test_two_names_of_one_key_may_not_contradict() -> None:
    own, refused = translate({"model_max_length": 4096, "max_length": "2048"}, {"max_length"})
    assert "contradict" in refused[0]
    assert translate({"model_max_length": "2048", "max_length": 2048}, {"max_length"}) == ({"max_length": "2048"}, [])
    assert translate({"no_cuda": True, "unfreeze_language_model": "True"}) == (
        {"use_cpu": True, "freeze_backbone": False},
        [],
    )


def test_names_that_became_ours_are_left_alone() -> None:
    assert translate({"image_aspect_ratio": "square"}, {"image_aspect_ratio"})[1] == []
    for name in OWN_CHOICES:
        assert name in known_keys()
    for name, flag in FLAGS.items():
        assert flag.key is not None or flag.reason, name
        assert flag.key is None or flag.key in known_keys(), name


def test_the_preflight_is_not_confused(tmp_path: Path) -> None:
    assert batch.describe(LLAVA, 2).startswith("32 samples")
