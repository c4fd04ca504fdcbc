"""An emulated second device on a CPU: operators that mix devices raise, as on CUDA.

`Emulated` tensors hold a CPU tensor and report another device. An operator that is given emulated
and CPU tensors together raises, except where CUDA allows it: CPU tensors without dimensions, CPU
index tensors, and copies. `.numpy()` of an emulated tensor raises. A device without float64, as
Apple's MPS, is emulated by `emulated_device(float64=False)`. Forward-mode transforms of
`torch.func` are not supported.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import accelerate
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from latentctl.nn import precision

CUDA = torch.device("meta")  # its C++ guard does nothing; here its tensors have data
LISTS = (list, range, np.ndarray)  # that torch turns into index tensors
NO_FLOAT64 = "Cannot convert a tensor to float64: the emulated device has no float64."
NO_NUMPY = "A tensor on cuda:0 cannot be converted to numpy. Copy it to the host first."


class Emulated(Tensor):
    has_float64 = True

    @staticmethod
    def __new__(cls, elem, requires_grad=False):
        if elem.dtype == torch.float64 and not cls.has_float64:
            raise TypeError(NO_FLOAT64)
        r = Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device="cpu",
            requires_grad=requires_grad,
            dispatch_device=True,
        )
        r.elem = elem
        return r

    def __init__(self, elem, requires_grad=False):
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return CUDA

    @property
    def is_meta(self):
        return False

    @property
    def is_cuda(self):
        return True

    @property
    def is_cpu(self):
        return False

    def numpy(self, *a, **k):
        raise TypeError(NO_NUMPY)

    def __array__(self, *a, **k):
        return self.numpy()

    def __format__(self, spec):
        return self.elem.detach().__format__(spec)

    def untyped_storage(self):
        return self.elem.untyped_storage()

    def tolist(self):
        return self.elem.detach().tolist()

    def data_ptr(self):
        return self.elem.data_ptr()

    def __repr__(self):
        return f"Emulated({self.elem!r})"

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        out = Emulated(self.elem.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            out = torch.nn.Parameter(out, requires_grad=self.requires_grad)
        else:
            out.requires_grad_(self.requires_grad)
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, proto):
        raise TypeError("pickling a cuda tensor")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


COPIES = {"copy_", "_to_copy", "set_", "_copy_from"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
INDEXING |= {"_unsafe_index", "_unsafe_index_put"}


def mixed(name, args, tensors):
    """Whether CUDA would refuse the CPU tensors among the arguments."""
    if name in COPIES or not any(isinstance(a, Emulated) for a in tensors):
        return False
    cpu = [a for a in tensors if not isinstance(a, Emulated)]
    if name not in INDEXING:
        return any(a.dim() > 0 for a in cpu)
    value = args[2] if len(args) > 2 else None  # CPU indices are allowed, CPU values are not
    plain = isinstance(value, Tensor) and not isinstance(value, Emulated) and value.dim() > 0
    return bool(cpu) and (plain or not isinstance(args[0], Emulated))


def leaves(value):
    """The arguments within lists and tuples."""
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def mapped(function, value):
    """As `tree_map` of lists and tuples, which is several times as slow."""
    if isinstance(value, list):
        return [mapped(function, part) for part in value]
    if isinstance(value, tuple):
        return tuple([mapped(function, part) for part in value])
    return function(value)


def run(func, args, kwargs):
    if func is torch.ops.prim.device.default:
        return CUDA
    tensors = [a for a in leaves((args, *kwargs.values())) if isinstance(a, Tensor)]
    if not kwargs.get("device") and not any(isinstance(a, Emulated) or a.is_meta for a in tensors):
        return func(*args, **kwargs)
    name = func._schema.name.split("::")[1]
    if any(not isinstance(a, Emulated) and a.is_meta for a in tensors):
        raise RuntimeError(f"aten::{name} is given a tensor without data: mend the emulation.")
    if mixed(name, args, tensors):
        raise RuntimeError(f"Tensors on cuda:0 and cpu are mixed (aten::{name}).")
    emulated = {id(a.elem): a for a in tensors if isinstance(a, Emulated)}
    device = kwargs.get("device")
    to_cpu = device is not None and torch.device(device).type == "cpu"
    to_emulated = device is not None and not to_cpu

    def unwrapped(a):
        if isinstance(a, Emulated):
            return a.elem
        return torch.device("cpu") if isinstance(a, torch.device) else a

    plain_args = mapped(unwrapped, tuple(args))
    plain_kwargs = {key: mapped(unwrapped, value) for key, value in kwargs.items()}
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    out = func(*plain_args, **plain_kwargs)
    if name in ("_local_scalar_dense", "is_nonzero"):
        return out
    if name == "copy_":
        return args[0]

    def wrapped(t):
        if not isinstance(t, Tensor) or isinstance(t, Emulated):
            return t
        if to_cpu:
            return t.clone() if name == "_to_copy" and id(t) in emulated else t
        return emulated[id(t)] if id(t) in emulated else Emulated(t)

    return mapped(wrapped, out) if to_cpu or to_emulated or emulated else out


class _Dispatch(TorchDispatchMode):
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # keeps torch from starting CUDA

    @property
    def allow_non_fake_inputs(self):
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


PYTHON_FACTORIES = {torch.tensor, torch.as_tensor}
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}


def renamed(value):
    """The emulated device, where CUDA is named."""
    named = isinstance(value, str) and value == "cuda"
    return CUDA if named or (isinstance(value, torch.device) and value.type == "cuda") else value


def indexed(tensor, index):
    """The index with tensors for its lists, on the tensor's device."""
    if isinstance(index, LISTS):
        numbers = torch.as_tensor(np.asarray(index))
        return (numbers if len(index) else numbers.long()).to(tensor.device)
    return tuple(indexed(tensor, i) for i in index) if isinstance(index, tuple) else index


class _Function(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {key: renamed(value) for key, value in (kwargs or {}).items()}
        args = tuple(renamed(value) for value in args)
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Emulated):
            raise TypeError(NO_NUMPY)
        if func in INDEXED and isinstance(args[0], Emulated):
            args = (args[0], indexed(*args[:2]), *args[2:])
        if func is Tensor.new_tensor and isinstance(args[0], Emulated):
            kwargs = {"device": CUDA, "dtype": args[0].dtype} | kwargs
            func, args = torch.tensor, args[1:]
        if func in PYTHON_FACTORIES and kwargs.get("device") == CUDA:
            kwargs.pop("device")
            made = func(*args, **kwargs)
            return made if isinstance(made, Emulated) else made.to(CUDA)
        return func(*args, **kwargs)


@contextlib.contextmanager
def emulated_device(accelerator=True, float64=True):
    torch.__future__.set_swap_module_params_on_conversion(True)
    plain_load = torch.nn.Module.load_state_dict

    def load(self, *a, **k):
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            return plain_load(self, *a, **k)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    torch.nn.Module.load_state_dict = load
    patches = [
        mock.patch.object(Emulated, "has_float64", float64),
        mock.patch.object(precision, "WITHOUT_FLOAT64", () if float64 else (CUDA.type,)),
        mock.patch("torch.cuda.get_rng_state", lambda device=0: torch.get_rng_state()),
        mock.patch("torch.cuda.set_rng_state", lambda s, device=0: None),
        mock.patch("torch.cuda.manual_seed", lambda s: None),
        mock.patch("torch.get_device_module", lambda d=None: torch.cuda),
        mock.patch("torch.cuda._lazy_init", lambda *a: None),
        mock.patch("torch.cuda.synchronize", lambda *a: None),
        mock.patch("torch.cuda.current_device", lambda: 0),
        mock.patch("torch.Tensor.cuda", lambda self, *a, **k: self.to(CUDA)),
        mock.patch("torch.Tensor.pin_memory", lambda self, *a, **k: self),
    ]
    if accelerator:
        patches.append(
            mock.patch.object(accelerate.Accelerator, "device", property(lambda self: CUDA))
        )
    with contextlib.ExitStack() as stack:
        for p in patches:
            stack.enter_context(p)
        stack.enter_context(_Dispatch())
        stack.enter_context(_Function())
        yield
