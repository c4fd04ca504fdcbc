r"""Logical expressions over attribute names as critics, such as `"(Smiling & Eyeglasses) | ~Male"`.

The text is parsed, never run: names and `&`, `|`, `~` (or `and`, `or`, `not`) are all that it may
consist of, and everything else is refused with its place. `~` binds closer than `&`, and `&` closer
than `|`; `not`, `and` and `or` bind looser than these, in this order.

Negations are pushed down to the names by De Morgan's laws, so that all names that are joined by one
connective become one target :math:`y`, which `critics.match` evaluates at once:

.. math::
    a \wedge \neg b \to \mathrm{match}(a{=}1, b{=}0), \qquad
    a \vee \neg b \to \neg\, \mathrm{match}(a{=}0, b{=}1)

An expression thus costs an evaluation of the critics for each connective, not for each name. It is
the same critic as the algebra gives, but for a name that is said twice in one conjunction or
disjunction: it counts once.
"""

from __future__ import annotations

__all__ = ["parse"]

import ast
import functools
import operator
from collections.abc import Sequence

import torch

from ..errors import InputError, UnknownNameError
from .base import Critic

HELP = (
    'Use names of attributes with & (and), | (or), ~ (not) and parentheses, such as "(Smiling & '
    'Eyeglasses) | ~Male"; a name that is not made of letters, digits and _ alone, or begins with '
    "a digit, goes in quotes."
)


def parse(text: str, critics: Critic) -> Critic:
    """The critic of a logical expression over the attributes of `critics`.

    Arguments:
        text: Names of attributes with `&`, `|`, `~` and parentheses. A name such as
            `5_o_Clock_Shadow`, which is no identifier, stands in quotes.
        critics: What the names mean.

    Raises:
        UnknownNameError: If a name is not an attribute; with its place and the nearest names.
        InputError: If the text is no such expression; with the place of what does not belong.

    Example:
        >>> from latentctl import AttributeCritic
        >>> critic = AttributeCritic((8,), ["Smiling", "Eyeglasses", "Male"], width=16)
        >>> z = torch.zeros(2, 8)
        >>> where = parse("(Smiling & Eyeglasses) | ~Male", critic)
        >>> same = (critic["Smiling"] & critic["Eyeglasses"]) | ~critic["Male"]
        >>> torch.allclose(where(z), same(z))
        True
    """
    flat = " ".join(text.splitlines()).strip()
    if not flat:
        raise InputError(f"The expression is empty. {HELP}")
    try:
        return _Reader(flat, critics).critic(ast.parse(flat, mode="eval").body, True)
    except SyntaxError as error:
        raise InputError(
            f"The expression {flat!r} cannot be read at character {error.offset or 1}: "
            f"{error.msg}. {HELP}"
        ) from None
    except ValueError as error:  # a null character, before Python 3.12
        if isinstance(error, InputError):
            raise
        raise InputError(f"The expression {flat!r} cannot be read: {error}. {HELP}") from None
    except (RecursionError, MemoryError):
        raise InputError(
            f"The expression of {len(flat)} characters is nested too deeply. Leave out "
            f"parentheses: a & b & c has no limit."
        ) from None


class _Reader:
    """Critics of the parts of one expression."""

    def __init__(self, text: str, critics: Critic) -> None:
        self.text, self.critics = text, critics

    def critic(self, node: ast.expr, wanted: bool) -> Critic:
        """Of a part, or of its negation."""
        node, wanted = self.unwrapped(node, wanted)
        connective = self.connective(node)
        if connective is None:
            head = self.critics[self.name(node)]
            return head if wanted else ~head
        operands = self.operands(node, connective)
        if (connective == "and") == wanted:
            return self.conjunction(operands, wanted)
        return ~self.conjunction(operands, not wanted)

    def conjunction(self, operands: Sequence[ast.expr], wanted: bool) -> Critic:
        """All operands at once, or all their negations; the names among them as one target."""
        target: dict[str, bool] = {}
        parts = []
        for operand in operands:
            node, value = self.unwrapped(operand, wanted)
            if self.connective(node) is not None:
                parts.append(self.critic(node, value))
            elif target.setdefault(self.name(node), value) != value:
                parts.append(self.critic(node, value))  # a & ~a: honest, and never satisfied
        y = torch.full((1, len(self.critics.names)), torch.nan)
        for name, value in target.items():
            y[0, self.critics.index(name)] = float(value)
        if len(target) > 1:
            parts.insert(0, self.critics.match(y))
        elif target:
            ((name, value),) = target.items()
            parts.insert(0, self.critics[name] if value else ~self.critics[name])
        while len(parts) > 1:  # a balanced tree, so that a long chain is not a deep one
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [functools.reduce(operator.and_, pair) for pair in pairs]
        return parts[0]

    def unwrapped(self, node: ast.expr, wanted: bool) -> tuple[ast.expr, bool]:
        """What is negated, and whether it is still wanted."""
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
            node, wanted = node.operand, not wanted
        return node, wanted

    def connective(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.BinOp | ast.BoolOp):
            if isinstance(node.op, ast.BitAnd | ast.And):
                return "and"
            if isinstance(node.op, ast.BitOr | ast.Or):
                return "or"
        return None

    def operands(self, node: ast.expr, connective: str) -> list[ast.expr]:
        """Those of a chain of one connective, in their order, whatever its parentheses."""
        found, waiting = [], [node]
        while waiting:
            part = waiting.pop()
            if self.connective(part) != connective:
                found.append(part)
            elif isinstance(part, ast.BinOp):
                waiting += [part.right, part.left]
            elif isinstance(part, ast.BoolOp):
                waiting += reversed(part.values)
        return found

    def name(self, node: ast.expr) -> str:
        place = len(self.text.encode()[: node.col_offset].decode()) + 1
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            part = ast.get_source_segment(self.text, node) or self.text
            raise InputError(
                f"{part!r} at character {place} of the expression {self.text!r} is no name of an "
                f"attribute. {HELP}"
            )
        if name not in self.critics.names:
            raise UnknownNameError(
                f"attribute (character {place} of the expression)", name, self.critics.names
            )
        return name
