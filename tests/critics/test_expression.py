"""Logical expressions over attribute names: meaning, evaluations, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentctl.critics import AttributeCritic, Critic
from latentctl.critics.expression import parse
from latentctl.errors import InputError, UnknownNameError
from latentctl.random import noise, seeded

NAMES = ("Smiling", "Male", "Young", "5_o_Clock_Shadow", "Bärtig")


class Counted(Critic):
    """The coordinates of the latent as log-odds; counts its evaluations."""

    def __init__(self, names=NAMES):
        super().__init__()
        self.names, self.latent_shape = tuple(names), (len(names),)
        self.register_buffer("posterior_std", torch.ones(len(names)))
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return z


@pytest.fixture
def critics():
    return Counted()


@pytest.fixture
def z():
    return 2 * noise(0, 200, (len(NAMES),), seed=0, purpose="expression")


def close(a, b, z):
    return torch.allclose(a(z), b(z), atol=1e-4, rtol=1e-4)


def truth(text, z):
    """The value that Python gives to each row, with names as truth values."""
    rows = [dict(zip(NAMES, row, strict=True)) for row in (z > 0).tolist()]
    return torch.tensor([bool(eval(text, {"__builtins__": {}}, row)) for row in rows])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Smiling", lambda c: c["Smiling"]),
        ("~Smiling", lambda c: ~c["Smiling"]),
        ("Smiling & ~Male", lambda c: c["Smiling"] & ~c["Male"]),
        ("Smiling | Male & Young", lambda c: c["Smiling"] | (c["Male"] & c["Young"])),
        ("(Smiling | Male) & Young", lambda c: (c["Smiling"] | c["Male"]) & c["Young"]),
        ("~Smiling & Male", lambda c: ~c["Smiling"] & c["Male"]),
        ("~(Smiling & Male)", lambda c: ~(c["Smiling"] & c["Male"])),
        ("not Smiling and Male or Young", lambda c: (~c["Smiling"] & c["Male"]) | c["Young"]),
        ("not Smiling & Male", lambda c: ~(c["Smiling"] & c["Male"])),
        (
            "(Smiling & Male) | ~(Young | ~(Male & '5_o_Clock_Shadow'))",
            lambda c: (
                (c["Smiling"] & c["Male"]) | ~(c["Young"] | ~(c["Male"] & c["5_o_Clock_Shadow"]))
            ),
        ),
        ("\n (Smiling\n  & Bärtig) ", lambda c: c["Smiling"] & c["Bärtig"]),
        ("~~Smiling", lambda c: c["Smiling"]),
    ],
)
def test_an_expression_equals_the_algebra(critics, z, text, same):
    expected = same(critics)
    assert close(parse(text, critics), expected, z)
    assert not close(parse(text, critics), ~expected, z)
    assert parse(text, critics).attributes == expected.attributes


def expressions():
    names = st.sampled_from(["Smiling", "Male", "Young"])
    return st.recursive(
        names,
        lambda inner: st.one_of(
            inner.map("~({})".format),
            st.builds("({} & {})".format, inner, inner),
            st.builds("({} | {})".format, inner, inner),
            st.builds("(not {} or {})".format, inner, inner),
        ),
        max_leaves=12,
    )


@given(expressions())
@settings(max_examples=60, deadline=None)
def test_saturated_log_odds_give_boolean_logic(text):
    corners = torch.tensor([[a, b, c, 1.0, 1.0] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    logits = parse(text, Counted())(60 * corners)
    python = text.replace("~", " not ").replace("&", " and ").replace("|", " or ")
    assert torch.equal(logits[:, 0] > 0, truth(python, corners))


def test_a_repeated_name_counts_once_and_a_contradiction_never_holds(critics, z):
    assert close(parse("Smiling & Male & Smiling", critics), parse("Smiling & Male", critics), z)
    assert close(parse("Smiling | Smiling", critics), critics["Smiling"], z)
    never = parse("Smiling & Male & ~Smiling", critics)
    assert (never.probability(z) <= 0.2501).all()
    assert (parse("Smiling | ~Smiling", critics).probability(z) >= 0.7499).all()


def test_thirty_attributes_are_one_evaluation_and_a_thousand_have_no_limit():
    names = [f"a{i}" for i in range(1000)]
    critics = Counted(names)
    z = torch.full((2, 1000), 8.0)
    for text, calls in {
        " & ".join(names[:30]): 1,
        " | ".join(f"~{n}" for n in names[:30]): 1,
        f"({' & '.join(names[:15])}) | ~({' & '.join(names[15:30])})": 2,
        " & ".join(names): 1,
        " & ".join(f"({a} | {b})" for a, b in zip(names[::2], names[1::2], strict=True)): 500,
    }.items():
        critics.calls = 0
        parse(text, critics)(z)
        assert critics.calls == calls
    every = critics["a0"]
    for name in names[1:30]:
        every = every & critics[name]
    assert torch.allclose(parse(" & ".join(names[:30]), critics)(z), every(z), atol=1e-4)


def test_gradients_flow_and_the_expression_applies_to_another_critic():
    with seeded(0):
        critics = AttributeCritic((4,), NAMES[:3], width=16).eval()
    z = noise(0, 5, (4,), seed=1, purpose="expression").requires_grad_()
    where = parse("(Smiling & ~Male) | ~Young", critics)
    where(z).sum().backward()
    assert z.grad is not None and (z.grad != 0).any(1).all()
    other = Counted(NAMES[:3])
    other.latent_shape = (4,)
    same = where.of(other)
    assert torch.equal(same(z[:, :3]), parse("(Smiling & ~Male) | ~Young", other)(z[:, :3]))


@pytest.mark.parametrize(
    ("text", "place", "near"),
    [
        ("Smilng", 1, "'Smiling'"),
        ("Smiling & (Male | Yung)", 19, "'Young'"),
        ("Bärtig & Yung", 10, "'Young'"),
        ("~'5 o Clock Shadow'", 2, "'5_o_Clock_Shadow'"),
        ("hat", 1, "Known: "),
    ],
)
def test_an_unknown_name_is_reported_with_its_place_and_the_nearest(critics, text, place, near):
    with pytest.raises(UnknownNameError, match=rf"character {place} of.*{near}"):
        parse(text, critics)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  \n ", "is empty"),
        ("Smiling &", "at character"),
        ("Smiling Male", "at character"),
        ("(Smiling", "at character 1"),
        ("Smiling = Male", "at character"),
        ("5_o_Clock_Shadow", "at character.*in quotes"),
        ("Smiling + Male", r"'Smiling \+ Male' at character 1 "),
        ("Smiling & 0.5 * Male", r"'0.5 \* Male' at character 11 "),
        ("Smiling ^ Male", "at character 1 "),
        ("Smiling & True", "'True' at character 11 "),
        ("Smiling & -Male", "'-Male' at character 11 "),
        ("Smiling < Male", "at character 1 "),
        ("__import__('os').system('touch refused')", "at character 1 "),
        ("Smiling & open('refused', 'w')", "at character 11 "),
        ("Smiling.__class__.__mro__", "at character 1 "),
        ("Smiling[0] | Male", "at character 1 "),
        ("(lambda: Male)()", "at character 1"),
        ("Smiling & [x for x in (1,)]", "at character 11 "),
        ("(Smiling := Male)", "at character 2"),
        ("Smiling if Male else Young", "at character 1 "),
        ("f'{Male}'", "at character 1 "),
        ("Smiling & b'Male'", "at character 11 "),
        ("Smiling; import os", "at character"),
        ("Smiling\0", "cannot be read|at character"),
        ("~" * 100_000 + "Smiling", "nested too deeply"),
        ("(" * 300 + "Smiling" + ")" * 300, "nested too deeply|at character"),
    ],
)
def test_other_syntax_is_refused_and_nothing_is_run(critics, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        parse(text, critics)
    assert critics.calls == 0 and not (tmp_path / "refused").exists()


def test_the_critic_may_move_to_another_device_afterwards():
    critics = AttributeCritic((4,), NAMES[:3], width=16)
    where = parse("Smiling & ~Male | Young", critics)
    critics.to("meta")
    assert where(torch.zeros(2, 4, device="meta")).device.type == "meta"
