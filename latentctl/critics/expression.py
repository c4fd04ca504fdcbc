r"""Logical expressions over attribute names as critics, such as `"(Smiling & Eyeglasses) | ~Male"`.

The text is parsed, never run. It may consist of names and `&`, `|`, `~` (or `and`, `or`, `not`);
everything else is refused with its place. `~` binds closer than `&`, and `&` closer than `|`;
`not`, `and` and `or` bind looser than these, in this order.

Negations are pushed down to the names by De Morgan's laws, so that all names that are joined by one
connective become one target :math:`y`, which `Critic.match` evaluates at once:

.. math::
    a \wedge \neg b \to \mathrm{match}(a{=}1, b{=}0), \qquad
    a \vee \neg b \to \neg\, \mathrm{match}(a{=}0, b{=}1)

An expression thus costs an evaluation of the critic for each connective, not for each name. It is
the same critic as the algebra gives, except that a name that is repeated in one conjunction or
disjunction counts once.
"""

from __future__ import annotations

__all__ = ["parse"]

import ast
import functools
import io
import operator
import tokenize
from collections.abc import Sequence

import torch

from ..errors import InputError, UnknownNameError
from .base import Critic

CONNECTIVES: dict[type[ast.AST], str] = {
    **dict.fromkeys((ast.BitAnd, ast.And), "and"),
    **dict.fromkeys((ast.BitOr, ast.Or), "or"),
}
HELP = (
    'Use names of attributes with & (and), | (or), ~ (not) and parentheses, such as "(Smiling & '
    'Eyeglasses) | ~Male"; a name that is not made of letters, digits and _ alone, or begins with '
    "a digit, goes in quotes."
)


def parse(text: str, critic: Critic) -> Critic:
    """The critic of a logical expression over the attributes of `critic`.

    Arguments:
        text: Names of attributes with `&`, `|`, `~` and parentheses. A name such as
            `5_o_Clock_Shadow`, which is no identifier, stands in quotes.
        critic: A critic with these names.

    Raises:
        UnknownNameError: If a name is not an attribute; with its place and the nearest names.
        InputError: If the text is no such expression; with the place of the first error.

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
        body = ast.parse(flat, mode="eval").body
        _check_no_comment(flat)
        return _Reader(flat, critic).critic(body, True)
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

    def __init__(self, text: str, critic: Critic) -> None:
        self.text, self.names, self.heads = text, critic.names, critic

    def critic(self, node: ast.expr, positive: bool) -> Critic:
        """The critic of a part, or of its negation."""
        node, positive = _without_negation(node, positive)
        connective = _connective(node)
        if connective is None:
            return self.head(self.name(node), positive)
        operands = _operands(node, connective)
        if (connective == "and") == positive:
            return self.conjunction(operands, positive)
        return ~self.conjunction(operands, not positive)

    def head(self, name: str, positive: bool) -> Critic:
        return self.heads[name] if positive else ~self.heads[name]

    def conjunction(self, operands: Sequence[ast.expr], positive: bool) -> Critic:
        """All operands at once, or all their negations; the names among them as one target."""
        target: dict[str, bool] = {}
        parts = []
        for operand in operands:
            node, value = _without_negation(operand, positive)
            # a & ~a is no target: it stays a product, which is never certain
            if _connective(node) or target.setdefault(self.name(node), value) != value:
                parts.append(self.critic(node, value))
        if len(target) > 1:
            y = torch.tensor([[float(target.get(name, torch.nan)) for name in self.names]])
            parts.insert(0, self.heads.match(y))
        elif target:
            parts.insert(0, self.head(*target.popitem()))
        while len(parts) > 1:  # a balanced tree, so that a long chain is not a deep one
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [functools.reduce(operator.and_, pair) for pair in pairs]
        return parts[0]

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
        if name not in self.names:
            raise UnknownNameError(
                f"attribute (character {place} of the expression)", name, self.names
            )
        return name


def _check_no_comment(text: str) -> None:
    """Raises where Python would ignore the rest of the text."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            raise SyntaxError("comments are not read", ("", 1, token.start[1] + 1, text))


def _without_negation(node: ast.expr, positive: bool) -> tuple[ast.expr, bool]:
    """The operand of all negations, and whether their number is even."""
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        node, positive = node.operand, not positive
    return node, positive


def _connective(node: ast.expr) -> str | None:
    return CONNECTIVES.get(type(node.op)) if isinstance(node, ast.BinOp | ast.BoolOp) else None


def _operands(node: ast.expr, connective: str) -> list[ast.expr]:
    """Those of a chain of one connective, in their order, whatever its parentheses."""
    found, waiting = [], [node]
    while waiting:
        part = waiting.pop()
        if _connective(part) != connective:
            found.append(part)
        elif isinstance(part, ast.BinOp):
            waiting += [part.right, part.left]
        elif isinstance(part, ast.BoolOp):
            waiting += reversed(part.values)
    return found
