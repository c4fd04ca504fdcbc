"""The lines of Python that give exactly the result on the page."""

from __future__ import annotations

__all__ = ["LOAD", "PACK", "arguments", "lines"]

import keyword
from typing import Any

from .region import mask_code
from .session import Result
from .source import Source

PACK = "studio-pack"
"""The folder in the ZIP file of a saved pack."""

LOAD = (
    "# with the attributes that were taught: save the pack in the Teach tab, and unpack it here\n"
    f'faces = latentctl.Conditional.from_pretrained("{PACK}", faces.decoder)'
)


def lines(result: Result, source: Source) -> str:
    """Lines that assign `out`, whose `x` and receipt equal those of `result`.

    Arguments:
        result: The result.
        source: Gives the lines that assign `faces`.
    """
    demand = result.demand
    parts = [source.code, result.start.code]
    if result.faces is not source.faces:
        parts.append(LOAD)
    if demand.is_empty:
        call = "faces.edit(start, strength=0.0, hold=False)"
    else:
        given = arguments({"seed": 0, **demand.arguments()})
        if demand.region:
            parts.append(mask_code(demand.region, source.decoder))
            given = f"{given}, mask=mask"
        call = f"faces.edit(start, {given})"
    parts += [f"out = {call}", 'out.save("edited.png", margin=0)']
    return "\n".join(part.rstrip() for part in parts) + "\n"


def arguments(values: dict[str, Any]) -> str:
    """Keyword arguments as text; names that are no identifiers are passed by `**`.

    Example:
        >>> arguments({"Smiling": 1.0, "5_o_Clock_Shadow": 0.0})
        "Smiling=1.0, **{'5_o_Clock_Shadow': 0.0}"
    """
    plain = {k: v for k, v in values.items() if k.isidentifier() and not keyword.iskeyword(k)}
    other = {k: v for k, v in values.items() if k not in plain}
    parts = [f"{name}={value!r}" for name, value in plain.items()]
    return ", ".join([*parts, f"**{other!r}"] if other else parts)
