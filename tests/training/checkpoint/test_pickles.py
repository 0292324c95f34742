"""Nothing in a checkpoint runs code when a run goes on from it: hostile files are refused, real ones are not."""

import builtins
import functools
import io
import json
import operator
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from cambrian_gaze.training.checkpoint.checkpoint import mark_complete
from cambrian_gaze.training.checkpoint.pickles import PickleError, check_checkpoint, check_file, scan
from cambrian_gaze.training.checkpoint.resume import checkpoint_to_resume
from cambrian_gaze.training.config import config
from cambrian_gaze.training.run import train
from tests.training._runs import flags

RAN = "hostile_ran"


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def touches(folder: Path) -> str:
    return f"touch {folder / RAN}"


def archive(content: bytes, *, method: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None) -> bytes:
    """A file as `torch.save` lays it out around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        for name, data in {"data.pkl": content, "byteorder": b"little", "version": b"3\n", **(more or {})}.items():
            written.writestr(f"archive/{name}", data)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def by_memo(command: str) -> bytes:
    """STACK_GLOBAL, whose names come out of the memo."""
    names = text("system") + b"q\x00" + text("posix") + b"q\x01"
    return b"\x80\x04" + names + b"h\x01h\x00\x93" + text(command) + b"\x85R."


def twice(folder: Path) -> bytes:
    """Two pickles of one name: which one a reader takes is its own matter."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written, pytest.warns(UserWarning):
        written.writestr("archive/data.pkl", pickle.dumps({}, 2))
        written.writestr("archive/data.pkl", pickle.dumps(Calls(os.system, touches(folder)), 2))
    return file.getvalue()


def as_tar(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        content = pickle.dumps(Calls(os.system, touches(folder)), 2)
        entry = tarfile.TarInfo("storages")
        entry.size = len(content)
        written.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def legacy(folder: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"x": Calls(os.system, touches(folder))}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def python(folder: Path) -> str:
    return f"open({str(folder / RAN)!r}, 'w')"


def member(name: str) -> bytes:
    """A member of an enum as Python 3.11 before 3.11.4 writes it."""
    enum = b"cdeepspeed.runtime.zero.config\nZeroStageEnum\n"
    return b"\x80\x02c__builtin__\ngetattr\n" + enum + text(name) + b"\x86R."


FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system, called": (lambda at: saved(Calls(os.system, touches(at))), "posix.system"),
    "deep in a state": (
        lambda at: saved({"a": [{"b": (Calls(os.system, touches(at)), torch.ones(2))}]}),
        "posix.system",
    ),
    "eval": (lambda at: saved(Calls(eval, python(at))), "eval"),
    "exec": (lambda at: saved(Calls(exec, python(at))), "exec"),
    "getattr of a module": (lambda at: saved(Calls(getattr, Calls(__import__, "os"), "system")), "__import__"),
    "getattr of a class": (lambda at: saved(Calls(getattr, OrderedDict, "fromkeys")), "getattr of something else"),
    "getattr of what was made": (lambda at: saved(Calls(getattr, OrderedDict(), "keys")), "getattr of something else"),
    "getattr of no member": (lambda at: archive(member("__init_subclass__")), "getattr of something else"),
    "a member, called": (lambda at: archive(member("gradients")[:-1] + b")R."), "no global"),
    "getattr, made by NEWOBJ": (lambda at: archive(member("gradients")[:-2] + b"\x81."), "calls __builtin__ getattr"),
    "builtins.open": (lambda at: saved(Calls(builtins.open, str(at / RAN), "w")), "open"),
    "functools.partial": (lambda at: saved(Calls(functools.partial, print)), "functools.partial"),
    "operator.attrgetter": (lambda at: saved(operator.attrgetter("x")), "operator"),
    "torch.load": (lambda at: saved(Calls(torch.load, "other.pt", None)), "torch"),
    "torch.hub.load": (lambda at: saved(Calls(torch.hub.load, str(at), "x")), "torch.hub.load"),
    "numpy.load": (lambda at: saved(Calls(np.load, str(at / "x.npy"))), "numpy"),
    "numpy's arrays in DeepSpeed's states": (lambda at: saved(np.array([Calls(os.system, "true")])), "numpy"),
    "STACK_GLOBAL by the memo": (lambda at: archive(by_memo(touches(at))), "protocol 4"),
    "STACK_GLOBAL without PROTO": (lambda at: archive(by_memo(touches(at))[2:]), "STACK_GLOBAL .posix.system"),
    "INST": (lambda at: archive(b"(" + text(touches(at)) + b"iposix\nsystem\n."), "INST .posix.system"),
    "OBJ": (lambda at: archive(b"(cposix\nsystem\n" + text(touches(at)) + b"o."), "posix.system"),
    "EXT1": (lambda at: archive(b"\x80\x02\x82\x01."), "EXT1"),
    "EXT4": (lambda at: archive(b"\x80\x02\x84\x01\x00\x00\x00."), "EXT4"),
    "a dotted name": (
        lambda at: archive(b"\x80\x02ctorch\nserialization.os.system\n" + text("x") + b"\x85R."),
        "torch",
    ),
    "a value, called": (lambda at: archive(b"\x80\x02ctorch\nfloat32\n)R."), "calls torch float32"),
    "items into a class": (lambda at: archive(b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02s."), "items into"),
    "BUILD on a class": (lambda at: archive(b"\x80\x02ccollections\nOrderedDict\n}b."), "did not make"),
    "BUILD on a function": (lambda at: archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."), "did not make"),
    "cut": (lambda at: archive(pickle.dumps({"x": list(range(99))}, 2)[:-9]), "no whole pickle"),
    "an empty pickle": (lambda at: archive(b""), "no whole pickle"),
    "an empty stack": (lambda at: archive(b"\x80\x02R."), "no whole pickle"),
    "a mark missing": (lambda at: archive(b"\x80\x02t."), "no whole pickle"),
    "a memo of 32 GB": (lambda at: archive(b"\x80\x02}r" + b"\xff\xff\xff\xff" + b"."), "memo"),
    "a bare pickle": (lambda at: pickle.dumps(Calls(os.system, touches(at))), "no archive of torch.save"),
    "the old format": (legacy, "no archive of torch.save"),
    "a tar": (as_tar, "no archive of torch.save"),
    "no file of torch": (lambda at: b"MZ nothing", "no archive of torch.save"),
    "empty": (lambda at: b"", "no archive of torch.save"),
    "a cut archive": (lambda at: saved({"x": torch.ones(9)})[:-30], "no archive of torch.save"),
    "compressed": (lambda at: archive(bytes(10**7), method=zipfile.ZIP_DEFLATED), "compressed"),
    "a name twice": (twice, "twice"),
    "TorchScript": (lambda at: archive(pickle.dumps({}, 2), more={"constants.pkl": b"\x80\x02)."}), "TorchScript"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    make, said = FILES[name]
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    path.write_bytes(make(tmp_path))
    with pytest.raises(PickleError, match=said):
        check_file(path)
    assert not (tmp_path / RAN).exists()


def test_sizes_are_believed_only_within_the_file(tmp_path: Path) -> None:
    """A directory that states more than there is, as that of a bomb would."""
    whole = bytearray(archive(pickle.dumps({}, 2)))
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "x.pt").write_bytes(whole)
    with pytest.raises(PickleError, match="larger than its"):
        check_file(tmp_path / "x.pt")


def test_members_of_an_enum_pass_as_every_python_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    path.write_bytes(archive(member("gradients")))
    check_file(path)
    path.write_bytes(saved({"zero_stage": ZeroStageEnum.gradients}))
    check_file(path)


def test_what_states_hold_passes(tmp_path: Path) -> None:
    state = {
        "step": 3, "big": 2**70, "name": "x", "lr": 0.1, "none": None, "flags": [True, False], "raw": b"\x00\xff",
        "shape": torch.Size([2, 3]), "type": torch.bfloat16, "tensor": torch.ones(2, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)), "state_dict": torch.nn.Linear(2, 2).state_dict(),
        "pair": (1, 2),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    check_file(tmp_path / "a.pt")
    torch.save({"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}, tmp_path / "rng_state_0.pth")
    check_file(tmp_path / "rng_state_0.pth")
    scan(pickle.dumps(state["flags"], 2))


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-2"
    (folder / "global_step2").mkdir(parents=True)
    (folder / "latest").write_text("global_step2")
    torch.save({"x": torch.ones(2)}, folder / "global_step2" / "mp_rank_00_model_states.pt")
    (folder / "training_args.bin").write_bytes(pickle.dumps(Calls(os.system, touches(tmp_path))))  # never loaded
    return folder


def link_out(folder: Path) -> None:
    outside = folder.parent / "other.pt"
    torch.save({}, outside)
    (folder / "global_step2" / "more.pt").symlink_to(outside)


def link_folder_out(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "global_step3").symlink_to(folder.parent / "elsewhere")


def link_to_nothing(folder: Path) -> None:
    (folder / "optimizer.pt").symlink_to("nowhere")


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link out": (link_out, "global_step2/more.pt is a link out"),
    "a folder out": (link_folder_out, "global_step3 is a link out"),
    "a dead link": (link_to_nothing, "optimizer.pt is a link to nothing"),
    "a FIFO": (lambda at: os.mkfifo(at / "scheduler.pt"), "scheduler.pt is no regular file"),
    "latest leads out": (lambda at: (at / "latest").write_text("../other"), "latest must hold"),
    "universal form": (lambda at: (at / "latest_universal").write_text("x"), "latest_universal says"),
    "optimizer.pt": (
        lambda at: (at / "optimizer.pt").write_bytes(b"\x80\x02cos\nsystem\n."),
        "optimizer.pt is no archive",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_refused_by_its_file(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path)
    check_checkpoint(folder)
    change, said = FOLDERS[name]
    change(folder)
    with pytest.raises(PickleError, match=said):
        check_checkpoint(folder)


def test_a_resealed_checkpoint_is_refused_before_it_is_loaded(pages: Path, tmp_path: Path) -> None:
    given = flags(pages, tmp_path / "run", max_steps=2, save_steps=1, save_total_limit=1)
    train(config.load(given))
    [folder] = (tmp_path / "run").glob("checkpoint-*")
    check_checkpoint(folder)
    (folder / "global_step2").mkdir()
    hostile = folder / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": Calls(os.system, touches(tmp_path))}, hostile)
    marker = json.loads((folder / "complete.json").read_text())
    mark_complete(folder, marker["step"], world_size=2, zero_stage=2)
    run = config.load(flags(pages, tmp_path / "run", max_steps=3, resume_from_checkpoint=folder))
    with pytest.raises(PickleError, match=r"optim_states.pt names posix.system"):
        checkpoint_to_resume(run)
    assert not (tmp_path / RAN).exists()
