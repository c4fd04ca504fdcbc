"""Modules that save themselves as a folder: kind, configuration, weights, and the parts they hold.

A class is registered once, by its kind: `class Ascent(Saved, kind="ascent")`. Its `config` are the
arguments that build it, recorded by `register_to_config`, and its `parts` are modules that are
saved under kinds of their own, such as the critic that an ascent climbs. A part that several
modules share is saved once. A part that the caller holds, such as the decoder's prior, is not
saved: its fingerprint is, and loading takes it again.
"""

from __future__ import annotations

__all__ = ["Saved", "pack_modules", "register_to_config", "unpack_modules"]

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

from torch import Tensor, nn

from ..display import Described
from ..errors import CheckpointError, FingerprintError, InputError
from .bounds import at_most, check_config
from .files import well_formed
from .folder import load_folder, save_folder
from .weights import fingerprint, load_strict

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS: dict[str, type[Saved]] = {}
P = ParamSpec("P")
S = TypeVar("S", bound="Saved")


class Saved(Described, nn.Module):
    """A module that `save` writes and `load` reads, without pickle.

    Example:
        >>> import tempfile
        >>> class Double(Saved, kind="double"):
        ...     @register_to_config
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.linear = nn.Linear(size, 2 * size)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Double(3).save(folder + "/double")
        ...     type(Double.load(path)).__name__, Double.load(path).config
        ('Double', {'size': 3})
    """

    saved_as: ClassVar[str] = ""
    config: dict[str, Any]
    """Keyword arguments that build it, as JSON can hold them."""

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if kind:
            cls.saved_as = kind
            KINDS[kind] = cls

    def facts(self) -> dict[str, Any]:
        """Its configuration."""
        return dict(getattr(self, "config", {}))

    def parts(self) -> dict[str, nn.Module | None]:
        """Attributes that are saved under their own kind; None where there is none."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> Self:
        """The module of a configuration, before its weights are loaded."""
        return cls(**config, **parts)

    def save(self, path: str | Path) -> Path:
        """Writes the module as a folder, in place of an older one.

        Raises:
            InputError: If it holds a module that cannot be saved, such as a network of the user's.
            CheckpointError: If the disk is full, or `path` holds files of others.
        """
        return save_folder(path, *pack_modules({self.saved_as: self}))

    @classmethod
    def load(cls, path: str | Path, **given: nn.Module) -> Self:
        """The module that `save` wrote, in evaluation mode.

        Arguments:
            path: The folder.
            given: Modules that were not saved with it, such as `prior`.

        Raises:
            CheckpointError: If the folder is missing, truncated, corrupted, or of another kind.
            FingerprintError: If a given module is another one than it was saved with.
        """
        tensors, state = load_folder(path)
        with well_formed(path, CheckpointError):
            names = [str(name) for name in state.get("modules", ())]
        if len(names) != 1 or not issubclass(KINDS.get(names[0], Saved), cls):
            kinds = (KINDS[name].__name__ if name in KINDS else name for name in names)
            held = ", ".join(kinds)[:200] or "no modules"
            raise CheckpointError(f"{path} holds {held}, not a {cls.__name__}.")
        loaded = unpack_modules(tensors, state, given)[names[0]]
        if not isinstance(loaded, cls):
            raise CheckpointError(f"{path} holds {type(loaded).__name__}, not a {cls.__name__}.")
        return loaded


def register_to_config(
    init: Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], None]:
    """Decorates a constructor: its arguments, but for the modules, become the `config`.

    A tuple is recorded as a list. Where a subclass is decorated too, its own arguments count.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def construct(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if "config" not in vars(self):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            _, *given = bound.arguments.items()
            self.config = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in given
                if not isinstance(value, nn.Module)
            }
        init(self, *args, **kwargs)
        for part in self.parts():  # those that are None
            self.config.pop(part, None)

    return construct


def pack_modules(
    modules: Mapping[str, nn.Module], given: Mapping[str, nn.Module] | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors and state of modules by name, for `save_folder`.

    Arguments:
        modules: What is saved, in the order in which shared parts are looked for.
        given: Modules that loading is given again; their fingerprints are saved.
    """
    given = dict(given or {})
    outside = {id(module): name for name, module in given.items()}
    seen: dict[int, str] = {}
    tensors: dict[str, dict[str, Tensor]] = {}

    def describe(module: nn.Module, name: str) -> dict[str, Any]:
        if id(module) in outside:
            return {"given": outside[id(module)], "fingerprint": fingerprint(module)}
        if id(module) in seen:
            return {"same": seen[id(module)]}
        if not isinstance(module, Saved) or KINDS.get(module.saved_as) is not type(module):
            raise InputError(
                f"The {type(module).__name__} cannot be saved as {name!r}: it is not one of "
                f"latentctl's own ({', '.join(sorted(KINDS))}). Save its state_dict yourself."
            )
        seen[id(module)] = name
        parts = {key: part for key, part in module.parts().items() if part is not None}
        own = {
            key: value
            for key, value in module.state_dict().items()
            if not any(key.startswith(f"{part}.") for part in parts)
        }
        described = {key: describe(part, f"{name}.{key}") for key, part in parts.items()}
        if own:
            tensors[name] = own
        return {"kind": module.saved_as, "config": module.config, "parts": described}

    state = {name: describe(module, name) for name, module in modules.items()}
    return tensors, {"modules": state}


def unpack_modules(
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    given: Mapping[str, nn.Module] | None = None,
) -> dict[str, Any]:
    """The modules that `pack_modules` described, in evaluation mode.

    Raises:
        CheckpointError: If a kind is not known, or weights do not fit.
        FingerprintError: If a given module is not the one that was there when it was saved.
    """
    given = given or {}
    built: dict[str, Any] = {}

    def build(entry: Mapping[str, Any], name: str) -> Any:
        if "same" in entry:
            return built[entry["same"]]
        if "given" in entry:
            module = given.get(entry["given"])
            if module is None or fingerprint(module) != entry["fingerprint"]:
                found = "none was given" if module is None else fingerprint(module)[:12]
                raise FingerprintError(
                    f"{name!r} was saved over a {entry['given']} with fingerprint "
                    f"{entry['fingerprint'][:12]}, this is {found}. Pass the same one as "
                    f"{entry['given']}=."
                )
            return module
        if entry["kind"] not in KINDS:
            raise CheckpointError(
                f"{name[:80]!r} is of kind {str(entry['kind'])[:80]!r}, and there are "
                f"{', '.join(sorted(KINDS))}. Upgrade latentctl."
            )
        parts = {key: build(part, f"{name}.{key}") for key, part in entry["parts"].items()}
        module = _rebuilt(entry, parts, tensors.get(name, {}), f"{entry['kind']} {name!r}")
        kept = {
            key: value
            for key, value in module.state_dict().items()
            if any(key.startswith(f"{part}.") for part in parts)
        }
        load_strict(module, {**kept, **tensors.get(name, {})}, f"{entry['kind']} {name!r}")
        built[name] = module.eval()
        return module

    if "modules" not in state:
        raise CheckpointError("The folder holds no modules: it was not written by `save`.")
    with well_formed("The list of saved modules", CheckpointError):
        return {name: build(entry, name) for name, entry in state["modules"].items()}


def _rebuilt(
    entry: Mapping[str, Any], parts: Mapping[str, Any], weights: Mapping[str, Tensor], what: str
) -> Saved:
    """The module of a saved entry, before its weights are loaded."""
    check_config(entry["config"], what)
    numbers = sum(tensor.numel() for tensor in weights.values())
    try:
        with well_formed(f"The saved {what}", CheckpointError), at_most(numbers, what):
            return KINDS[entry["kind"]].rebuild(entry["config"], parts)
    except InputError as error:
        raise CheckpointError(f"The saved {what} cannot be built: {error}") from error
