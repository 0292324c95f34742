"""The pickles of a checkpoint, checked before anything loads them: DeepSpeed unpickles freely, and that may run code.

Nothing is executed here. A file must be the zip archive that `torch.save` writes, read by torch's own reader, and its
pickle may use the opcodes of protocol 2 that states need and name the globals listed below, no others.
"""

from __future__ import annotations

import os
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
NEVER_LOADED = ("training_args.bin",)
"""Written by Trainer, and read by nothing here."""
LARGEST = 64 * 2**20
"""Bytes that the pickle of a file may have, its tensors apart: those of a large model are a few MB."""

_DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool"
_STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool Untyped"
_STATES = "subclass_8bit OptimState8bit,subclass_4bit OptimState4bit,subclass_fp8 OptimStateFp8"
VALUES = frozenset(
    {
        *(f"torch {name}" for name in _DTYPES.split()),
        *(f"torch {name}Storage" for name in _STORAGES.split()),
        *(f"torchao.optim.{name}" for name in _STATES.split(",")),
    }
)
"""Globals that are values, and are not called by the pickle: types of numbers, and the tensors in which torchao's
optimizers of 8 and 4 bits keep their states."""
CALLED = frozenset(
    {
        *("collections OrderedDict", "torch Size", "torch device", "_codecs encode"),
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
        # Of tensors of other types; torch's own weights-only reader takes them, too.
        *("torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_wrapper_subclass"),
        "torch.serialization _get_layout",
        *("deepspeed.runtime.fp16.loss_scaler LossScaler", "deepspeed.runtime.fp16.loss_scaler DynamicLossScaler"),
        *("deepspeed.runtime.zero.config ZeroStageEnum", "deepspeed.utils.tensor_fragment fragment_address"),
    }
)
"""Globals from which objects are made."""
MEMBERS = {
    "deepspeed.runtime.zero.config ZeroStageEnum": frozenset(
        {"disabled", "optimizer_states", "gradients", "weights", "max_stage"}
    )
}
"""Enums and their members. Python 3.11 before 3.11.4 writes a member as `getattr` of its enum, which is taken of these
alone."""
GETATTR = ("__builtin__ getattr", "builtins getattr")
RANDOM = frozenset(
    {
        *("numpy._core.multiarray _reconstruct", "numpy.core.multiarray _reconstruct", "numpy dtype", "numpy ndarray"),
        "numpy.dtypes UInt32DType",
    }
)
"""Those that the states of the random generators need too; nothing else may name them."""

_PUSHED = frozenset("NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT EMPTY_LIST EMPTY_DICT".split())
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """A file that is not loaded; the message says why, and for the checks of a folder which."""


class Global(NamedTuple):
    """What `GLOBAL` put on the stack."""

    name: str


class Made(NamedTuple):
    """An object that a global made."""

    by: str


class Member(NamedTuple):
    """A tuple of an enum and the name of one of its members."""

    enum: str
    name: str


_MARK, _PLAIN = object(), object()


def check_checkpoint(folder: Path | str) -> None:
    """Check every pickle of a checkpoint that resuming loads, and where its links and its `latest` lead.

    Raises: PickleError, which names the file, and the global or what else is wrong.
    """
    folder = Path(folder)
    root = folder.resolve()
    for path in _entries(folder):
        name = path.relative_to(folder)
        try:
            _check_entry(path, root)
        except PickleError as error:
            raise PickleError(
                f"{folder} is not loaded: {name} {error}. No run writes a checkpoint like that: it was "
                "damaged, or made to harm; take the checkpoint from where it was trained"
            ) from error


def check_file(path: Path | str) -> None:
    """Raises: PickleError where a file that `torch.save` should have written is none, or may run code when loaded."""
    path = Path(path)
    scan(_pickle_of(path), CALLED | RANDOM if path.name.startswith("rng_state") else CALLED)


def scan(data: bytes, called: frozenset[str] = CALLED) -> None:
    """Follow the stack of a pickle without executing it.

    Raises: PickleError at a global outside `VALUES` and `called`, at an opcode that no state needs, or where it is cut.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, arg, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return
            _step(opcode.name, arg, stack, memo, called, len(data))
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise PickleError(f"holds no whole pickle ({_short(error)})") from error
    raise PickleError("holds no whole pickle (it ends early)")


def _step(name: str, arg: Any, stack: list[Any], memo: dict[int, Any], called: frozenset[str], size: int) -> None:
    if name in _PUSHED:
        stack.append(_PLAIN)
    elif name == "BINUNICODE":
        stack.append(arg)
    elif name == "PROTO":
        if arg != 2:
            raise PickleError(f"holds a pickle of protocol {arg}, not 2")
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("BINPUT", "LONG_BINPUT"):
        if arg > size:
            raise PickleError(f"holds a pickle with {arg} as the index of a memo, which takes the machine's memory")
        memo[arg] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[arg])
    elif name in _TUPLES:
        stack.append(_tuple(_pop(stack, _TUPLES[name])))
    elif name == "TUPLE":
        _pop_to_mark(stack)
        stack.append(_PLAIN)
    elif name in ("APPENDS", "SETITEMS"):
        _pop_to_mark(stack)
        _takes_items(stack[-1])
    elif name in ("APPEND", "SETITEM"):
        _pop(stack, 1 if name == "APPEND" else 2)
        _takes_items(stack[-1])
    elif name == "BINPERSID":
        _pop(stack, 1)
        stack.append(_PLAIN)
    elif name == "GLOBAL":
        if arg not in VALUES and arg not in called and arg not in GETATTR:
            raise PickleError(f"names {_short(arg.replace(' ', '.'))}, which no state needs and which may run code")
        stack.append(Global(arg))
    elif name in ("REDUCE", "NEWOBJ"):
        maker, arguments = _pop(stack, 2)
        if isinstance(maker, Global) and maker.name in GETATTR and name == "REDUCE":
            if not isinstance(arguments, Member):
                raise PickleError(f"calls {_short(maker.name.replace(' ', '.'))} of something else than a known enum")
            stack.append(_PLAIN)
            return
        if not isinstance(maker, Global) or maker.name not in called:
            raise PickleError(f"calls {_short(getattr(maker, 'name', 'something that is no global'))}, a value")
        stack.append(Made(maker.name))
    elif name == "BUILD":
        _pop(stack, 1)
        if not isinstance(stack[-1], Made):
            raise PickleError("sets the state of something that it did not make")
    else:
        raise PickleError(f"uses the pickle opcode {name}{_named(name, arg, stack)}, which no state needs")


def _tuple(items: list[Any]) -> Any:
    if len(items) == 2 and isinstance(items[0], Global) and isinstance(items[1], str):
        if items[1] in MEMBERS.get(items[0].name, ()):
            return Member(items[0].name, items[1])
    return _PLAIN


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count or any(item is _MARK for item in stack[len(stack) - count :]):
        raise PickleError("holds no whole pickle (its stack is empty)")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _pop_to_mark(stack: list[Any]) -> None:
    while stack:
        if stack.pop() is _MARK:
            return
    raise PickleError("holds no whole pickle (a mark is missing)")


def _takes_items(target: Any) -> None:
    if isinstance(target, Global):
        raise PickleError(f"puts items into {target.name}")


def _named(opcode: str, arg: Any, stack: list[Any]) -> str:
    """What such an opcode would import, where it can be told."""
    if opcode == "STACK_GLOBAL":
        texts = [item if isinstance(item, str) else "?" for item in stack[-2:]]
        return f" ({_short('.'.join(texts))})"
    return f" ({_short(str(arg).replace(' ', '.'))})" if arg is not None else ""


def _pickle_of(path: Path) -> bytes:
    """`data.pkl` of an archive. Two readers must agree about it: torch's, which loads it, and Python's, which says the
    sizes beforehand."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise PickleError("is no archive of torch.save (a bare pickle, a tar or an old format is not read)")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            prefix = names[0].split("/")[0] + "/" if names else ""
            if len(set(names)) != len(names) or not all(name.startswith(prefix) for name in names):
                raise PickleError("is an archive with a name twice, or outside its folder")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise PickleError("is a compressed archive; torch.save writes none")
            if sum(entry.file_size for entry in entries) > size:
                raise PickleError(f"is an archive whose parts are larger than its {size} bytes")
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
                raise PickleError("is a TorchScript archive, which is a program")
            if archive.getinfo(prefix + "data.pkl").file_size > LARGEST:
                raise PickleError(f"holds a pickle of more than {LARGEST} bytes")
            data = archive.read(prefix + "data.pkl")
        reader = torch._C.PyTorchFileReader(str(path))
        if sorted(prefix + name for name in reader.get_all_records()) != sorted(names):
            raise PickleError("is an archive that readers understand differently")
        if reader.get_record("data.pkl") != data:
            raise PickleError("is an archive that readers understand differently")
    except PickleError:
        raise
    except (KeyError, OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise PickleError(f"is no archive of torch.save ({_short(error)})") from error
    return data


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below, links not followed."""
    for at, folders, files in os.walk(folder):
        yield from (Path(at) / name for name in sorted([*folders, *files]))


def _check_entry(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise PickleError("is a link to nothing")
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise PickleError("is a link out of the checkpoint")
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return
    if not stat.S_ISREG(mode):
        raise PickleError("is no regular file")
    if path.name == "latest":
        if path.stat().st_size > 200 or not re.fullmatch(rb"\w[\w.-]*\s*", path.read_bytes()):
            raise PickleError("must hold the name of a folder beside it")
    elif path.name == "latest_universal":
        raise PickleError("says that it is in DeepSpeed's universal form, which a run makes anew when it needs it")
    elif path.suffix.lower() in SUFFIXES and path.name not in NEVER_LOADED:
        check_file(path)


def _short(text: Any) -> str:
    shown = " ".join(str(text).split())
    return shown if len(shown) <= 100 else shown[:97] + "..."
