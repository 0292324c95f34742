"""What a stranger may have done to a model's folder: each case spoils one file of a sound folder."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from tests.models._checkpoints import Evil


class Case(NamedTuple):
    """One change of a folder."""

    name: str
    group: str
    """Which commands mind: all that read this kind of file."""
    spoil: Callable[[Path], None]


def _raw(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: _replace(folder / file).write_bytes(content) and None


def _replace(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _fields(file: str, *owners: str, **values: Any) -> Callable[[Path], None]:
    """Changes fields of a JSON file, or of the objects `owners` in it."""

    def spoil(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        for owner in [content[name] for name in owners if name in content] or [content]:
            owner.update(values)
        _replace(path).write_text(json.dumps(content))

    return spoil


def _made(file: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: make(_replace(folder / file)) and None


def _link_out(file: str) -> Callable[[Path], None]:
    """The file as a link to one of the same content outside the folder."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / f"outside-{file}"
        outside.write_bytes((folder / file).read_bytes() if (folder / file).exists() else b"secret\n")
        _replace(folder / file).symlink_to(outside)

    return spoil


def _weights(folder: Path) -> Path:
    """A file of weights in the folder."""
    return sorted(folder.glob("*.safetensors"))[0]


def _of_weights(change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: change(_weights(folder)) and None


def _cut(path: Path) -> None:
    content = path.read_bytes()
    _replace(path).write_bytes(content[: len(content) * 2 // 3])


def _header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change({name: value for name, value in header.items() if name != "__metadata__"})
        text = json.dumps(header).encode()
        _replace(path).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return _of_weights(spoil)


def _each(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: [entry.update(fields) for entry in header.values()] and None


def _tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return _of_weights(spoil)


def _wider(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = torch.cat([tensor, tensor])


def _indexed(place: str) -> Callable[[Path], None]:
    """An index in the place of the one there is, whose tensors lie at `place`."""

    def spoil(folder: Path) -> None:
        weights = _weights(folder)
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.rename(folder.parent / weights.name)

    return spoil


def _pickled(folder: Path) -> None:
    """Pickles that run code, in the place of all weights."""
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    torch.save({"a": Evil(folder.parent / "ran")}, folder / "pytorch_model.bin")


def in_the_hubs_cache(folder: Path) -> Path:
    """The folder as a snapshot in the hub's cache, whose files are links to blobs. Returns the folder of the blobs."""
    root = folder.parent / "models--me--it"
    blobs, snapshot = root / "blobs", root / "snapshots" / "abc"
    for place in (blobs, snapshot):
        place.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    folder.rmdir()
    folder.symlink_to(snapshot)
    return blobs


def _blob_elsewhere(folder: Path) -> None:
    blob = sorted(in_the_hubs_cache(folder).iterdir())[0]
    blob.rename(folder.parent / "outside")
    blob.symlink_to(folder.parent / "outside")


def _template(text: str) -> Callable[[Path], None]:
    return _raw("chat_template.jinja", text.encode())


def _named_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates" / "tool_use.jinja")


def _several(*spoils: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [spoil(folder) for spoil in spoils] and None


DEEP = b'{"a":' * 100_000
PARTS = ("text_config", "vision_config")
KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a dead link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
TEMPLATES = {
    "has wrong syntax": "{% for m in messages %}{{ m.role }",
    "has an unknown tag": "{% evil %}",
    "loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "has a huge range": "{% for a in range(10**12) %}x{% endfor %}",
    "fills the memory": "{{ 'a' * 10**11 }}",
    "doubles": "{% set n = namespace(s='a') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "refuses": "{{ raise_exception('never') }}",
    "divides by zero": "{{ 1 / 0 }}",
    "reaches for Python": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "is long": "x" * 2_000_000,
}
RAW = {
    "empty": b"",
    "cut": b'{"model_type": "cambr',
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "deep": DEEP,
    "with a BOM": b"\xef\xbb\xbf{}",
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "binary": bytes(range(256)),
    "NaN": b'{"a": NaN}',
    "a huge number": b'{"a": ' + b"9" * 10_000 + b"}",
}


def _cases() -> list[Case]:
    found = []
    for file, group in (
        ("config.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("processor_config.json", "processor"),
        ("generation_config.json", "generation"),
        ("adapter_config.json", "adapter"),
        ("lineage.json", "lineage"),
    ):
        found += [Case(f"{file} is {name}", group, _raw(file, content)) for name, content in RAW.items()]
        found += [Case(f"{file} is {name}", group, _made(file, make)) for name, make in KINDS.items()]
    for name, make in KINDS.items():
        found.append(Case(f"the weights are {name}", "weights", _of_weights(lambda p, m=make: m(_replace(p)))))
        found.append(Case(f"merges.txt is {name}", "tokenizer", _made("merges.txt", make)))
    configs: dict[str, Callable[[Path], None]] = {
        "is missing": lambda folder: (folder / "config.json").unlink(),
        "names a foreign model": _fields("config.json", model_type="bert"),
        "names a model of another kind": _fields("config.json", model_type="vit"),
        "names no model": _fields("config.json", model_type="evil"),
        "names code": _fields(
            "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
        ),
        "has a number for its model": _fields("config.json", model_type=7),
    }
    for size, value in (
        ("hidden_size", 10**9),
        ("hidden_size", "64"),
        ("hidden_size", 0),
        ("hidden_size", 1.5),
        ("num_hidden_layers", 10**8),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("num_attention_heads", True),
        ("intermediate_size", 10**12),
        ("hidden_size", 96),
    ):
        configs[f"says {size}: {value!r}"] = _fields("config.json", *PARTS, **{size: value})
    found += [Case(f"config.json {name}", "config", spoil) for name, spoil in configs.items()]
    for key, value in (
        ("attn_implementation", "someone/kernel"),
        ("_attn_implementation", "someone/kernel:run"),
        ("num_labels", 10**9),
        ("pad_token_id", "x"),
        ("eos_token_id", [[1]]),
        ("dtype", "evil"),
    ):
        found.append(Case(f"config.json says {key}: {value!r}", "config", _fields("config.json", **{key: value})))
    for value in ({"quant_method": "evil"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}):
        spoil = _fields("config.json", quantization_config=value)
        found.append(Case(f"config.json says quantization_config: {value}", "our model", spoil))
    found.append(Case("config.json says num_beams: 10**6", "config", _fields("config.json", num_beams=10**6)))
    for key, value in (
        ("num_beams", 10**6),
        ("num_return_sequences", 10**9),
        ("num_beams", "many"),
        ("max_new_tokens", "many"),
        ("min_length", [1]),
        ("top_k", -1),
        ("temperature", "hot"),
        ("do_sample", "yes"),
        ("eos_token_id", "end"),
        ("eos_token_id", [10**30]),
        ("forced_eos_token_id", {"a": 1}),
        ("no_repeat_ngram_size", 2.5),
        ("suppress_tokens", ["a"]),
        ("exponential_decay_length_penalty", "x"),
        ("watermarking_config", {"a": 1}),
    ):
        spoil = _fields("generation_config.json", **{key: value})
        found.append(Case(f"generation_config.json says {key}: {value!r}", "generation", spoil))
    found += [
        Case("the weights are empty", "weights", _of_weights(lambda p: _replace(p).write_bytes(b""))),
        Case("the weights are cut", "weights", _of_weights(_cut)),
        Case(
            "the weights are of LFS", "weights", _of_weights(lambda p: _replace(p).write_bytes(b"version https://git"))
        ),
        Case("the weights are missing", "weights", _of_weights(Path.unlink)),
        Case("the weights are a pickle that runs code", "weights", _pickled),
        Case(
            "the header is 2**63 long",
            "weights",
            _of_weights(lambda p: _replace(p).write_bytes(struct.pack("<Q", 2**63) + b"{}")),
        ),
        Case(
            "the header is deep",
            "weights",
            _of_weights(lambda p: _replace(p).write_bytes(struct.pack("<Q", len(DEEP)) + DEEP)),
        ),
        Case("the header has another type", "weights", _header(_each(dtype="EVIL"))),
        Case("the header has other places", "weights", _header(_each(data_offsets=[0, 2**60]))),
        Case("the header has other shapes", "weights", _header(_each(shape=[2**40]))),
        Case("the header has texts for shapes", "weights", _header(_each(shape="x"))),
        Case("tensors are missing", "weights", _tensors(lambda t: [t.pop(name) for name in list(t)[::2]] and None)),
        Case("tensors have other shapes", "weights", _tensors(_wider)),
        Case("the index names a file above", "weights", _indexed("../model.safetensors")),
        Case("the index names an absolute path", "weights", _indexed("/etc/passwd")),
        Case("the index names a missing file", "weights", _indexed("model-00009-of-00009.safetensors")),
        Case("the index is a list", "weights", _raw("model.safetensors.index.json", b"[]")),
        Case("the index maps to numbers", "weights", _raw("model.safetensors.index.json", b'{"weight_map": {"a": 3}}')),
        Case("tokenizer.json is another model's", "tokenizer", _raw("tokenizer.json", b'{"model": {"type": "Evil"}}')),
        Case("tokenizer.json is an empty object", "tokenizer", _raw("tokenizer.json", b"{}")),
        Case("tokenizer.json has a number for its model", "tokenizer", _raw("tokenizer.json", b'{"model": 3}')),
        Case(
            "the vocabulary is a list",
            "tokenizer",
            _raw("tokenizer.json", b'{"model": {"type": "BPE", "vocab": [1], "merges": []}}'),
        ),
        Case(
            "the tokenizer is code",
            "tokenizer",
            _several(
                _fields("tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["a.B", "a.B"]}),
                lambda folder: (folder / "tokenizer.json").unlink(),
            ),
        ),
        Case("the longest text is a text", "processor", _fields("tokenizer_config.json", model_max_length="x")),
        Case("the end token is a number", "tokenizer", _fields("tokenizer_config.json", eos_token=5)),
        Case("the tokens are numbers", "tokenizer", _fields("tokenizer_config.json", added_tokens_decoder=[1, 2])),
    ]
    for key, value in (
        ("grid", [10**6, 10**6]),
        ("grid", "x"),
        ("num_context_tokens", 10**9),
        ("num_context_tokens", "4"),
        ("image_aspect_ratio", "evil"),
        ("image_processor", [1]),
        ("system_prompt", {"a": 1}),
    ):
        spoil = _fields("processor_config.json", **{key: value})
        found.append(Case(f"processor_config.json says {key}: {value!r}", "processor", spoil))
    for key, value in (
        ("size", {"height": 10**6, "width": 10**6}),
        ("size", "large"),
        ("image_mean", "x"),
        ("image_std", [0, 0, 0]),
    ):
        spoil = _fields("processor_config.json", "image_processor", **{key: value})
        found.append(Case(f"the image processor says {key}: {value!r}", "processor", spoil))
    for key, value in (
        ("r", 10**9),
        ("r", "8"),
        ("peft_type", "EVIL"),
        ("peft_type", None),
        ("target_modules", "((a+)+)+$"),
        ("target_modules", ".*.*.*.*.*.*x"),
        ("target_modules", "("),
        ("target_modules", 3),
        ("target_modules", ["no_such_layer"]),
        ("rank_pattern", {"(a|a)*b": 4}),
        ("rank_pattern", {"q_proj": 10**9}),
        ("lora_alpha", "x"),
        ("init_lora_weights", "pissa"),
        ("modules_to_save", ["(" * 500]),
        ("layer_replication", [[0, 10**6]]),
    ):
        spoil = _fields("adapter_config.json", **{key: value})
        found.append(Case(f"adapter_config.json says {key}: {str(value)[:40]!r}", "adapter", spoil))

    spoil = _raw("adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": "/etc/evil"}')
    found.append(Case("an adapter leads to another model", "our model", spoil))

    def pickled_adapter(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        torch.save({"a": Evil(folder.parent / "ran")}, folder / "adapter_model.bin")

    found += [
        Case("the adapter is a pickle that runs code", "adapter", pickled_adapter),
        Case("the adapter's weights are cut", "adapter", _of_weights(_cut)),
        Case("the adapter's tensors have other shapes", "adapter", _tensors(_wider)),
        Case("lineage.json has another format", "lineage", _fields("lineage.json", format=9)),
        Case("lineage.json has parents that are texts", "lineage", _fields("lineage.json", parents=["x"])),
        Case("lineage.json has no code", "lineage", _fields("lineage.json", code=None)),
        Case("lineage.json has data that are none", "lineage", _fields("lineage.json", data=[1])),
    ]
    for name, make in KINDS.items():
        found.append(Case(f"the chat template is {name}", "tokenizer", _made("chat_template.jinja", make)))
    found.append(Case("a chat template by name is a FIFO", "tokenizer", _named_template))
    found.append(Case("the chat template is no UTF-8", "template", _raw("chat_template.jinja", b"\xff\xfe{{ a }}")))
    found += [Case(f"the chat template {name}", "template", _template(text)) for name, text in TEMPLATES.items()]
    found.append(Case("a blob of the cache lies elsewhere", "link", _blob_elsewhere))
    found += [Case(f"{file} is a link out", "link", _link_out(file)) for file in ("config.json", "tokenizer.json")]
    found += [Case(f"{file} is a link out", "link", _link_out(file)) for file in ("notes.txt", "chat_template.jinja")]
    found.append(
        Case("the weights are a link out", "link to weights", lambda folder: _link_out(_weights(folder).name)(folder))
    )
    return found


CASES = _cases()
