"""A second device in name alone: tensors that say they are on `OTHER`, with their data on the CPU.

Within `other_device()` an operation that mixes tensors of both devices is an error, as it is on a GPU, and what is
computed from tensors on `OTHER` stays there. Stands in for CUDA where there is none; kernels are the CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
OTHER = torch.device("meta")
CROSSING = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
"""Numbers of rows may be on the CPU."""


class Elsewhere(Tensor):
    """A tensor on `OTHER`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: Tensor) -> "Elsewhere":
        placed = dict(strides=data.stride(), storage_offset=data.storage_offset(), dtype=data.dtype, device=OTHER)
        wrapper = Tensor._make_wrapper_subclass(cls, data.size(), **placed)
        wrapper.data_here = data
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def here(x):
    return x.data_here if isinstance(x, Elsewhere) else x


def run(func, args, kwargs):
    """One operation on the CPU, its results where they belong."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    elsewhere = [x for x in tensors if isinstance(x, Elsewhere)]
    on_cpu = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
    if elsewhere and on_cpu and func not in (*CROSSING, *INDEXED):
        shapes = ([tuple(x.shape) for x in xs] for xs in (elsewhere, on_cpu))
        raise RuntimeError("{}: {} on the other device and {} on the CPU".format(func, *shapes))
    if func is aten.copy_.default:
        here(args[0]).copy_(here(args[1]))
        return args[0]
    device = kwargs.get("device")
    stays = elsewhere if device is None else torch.device(device) == OTHER
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    in_place = {id(here(x)): x for x in elsewhere}

    def put(x):
        return in_place.get(id(x), Elsewhere(x) if stays else x) if isinstance(x, Tensor) else x

    return tree_map(put, func(*tree_map(here, args), **tree_map(here, kwargs)))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not come by as an operation, or asks the device for a kernel."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(OTHER)
        if func is Tensor.tolist:
            return here(args[0]).tolist()
        if func is scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1) @ v


@contextmanager
def other_device() -> Iterator[None]:
    with _Functions(), _Operations():
        yield


def move(module: torch.nn.Module) -> None:
    """A module's parameters and buffers to `OTHER`, in place."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(Elsewhere(p.detach()), p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = Elsewhere(b)
