"""Bad input is refused with what was asked, what was found, and what to do."""

from __future__ import annotations

import pytest
import torch
from command_line import launch
from conftest import NAMES, Linear

from latentctl import Ascent, AttributeCritic, Latents, condition
from latentctl.controllers import Transport
from latentctl.decoder.registry import wrap
from latentctl.errors import AdapterError, InputError, LatentctlError, ShapeError, UnknownNameError

NAN = torch.nan


@pytest.fixture
def faces(decoder, critic):
    ascent = Ascent(critic, steps=15)
    return condition(decoder, critic, ascent, editor=ascent)


@pytest.fixture
def photos(decoder, held_out):
    return decoder.decode(held_out.mean[:6])


def refused(kind, *words):
    """Expects an error of latentctl whose message holds all these words."""
    assert issubclass(kind, LatentctlError)
    return pytest.raises(kind, match="(?s)" + "".join(rf"(?=.*{word})" for word in words))


def test_a_valid_request_is_accepted(faces, photos):
    assert faces.edit(photos, Smiling=True, Male=0.5).x.shape == photos.shape
    assert len(faces.sample(2, where=faces.critic["Hat"], Smiling=False)) == 2


def test_wrong_latent_shape(decoder, critic):
    with refused(ShapeError, r"toy decodes latents \(B, 8\)", r"\(2, 7\)"):
        decoder.decode(torch.zeros(2, 7))
    with refused(ShapeError, r"takes latents \(B, 8\)", r"\(2, 7\)", "another decoder"):
        critic(torch.zeros(2, 7))
    with refused(ShapeError, r"\(B, 8\)", r"\(2, 1, 1, 8\)"):
        Ascent(critic)(torch.zeros(2, 1, 1, 8), torch.ones(1, 3))


def test_wrong_image_size(faces):
    with refused(ShapeError, r"samples \(B, 3, 4, 4\)", r"\(2, 3, 8, 8\)", "Resize"):
        faces.edit(torch.rand(2, 3, 8, 8), Smiling=True)
    with refused(ShapeError, r"\(3, 5, 4\)", r"\(3, 4, 4\)"):
        faces.score(torch.rand(3, 5, 4))


@pytest.mark.parametrize("method", ["edit", "score"])
def test_floats_of_0_to_255(faces, photos, method):
    options = {"Smiling": True} if method == "edit" else {}
    with refused(InputError, r"values in \[0, 1\]", r"in \[\d+\.?\d*, \d{3}\.?\d*\]", "Rescale"):
        getattr(faces, method)(photos * 255, **options)


def test_whole_numbers_without_a_known_white(faces, photos):
    with refused(InputError, r"floating values in \[0, 1\]", "torch.int64", "x / 255"):
        faces.edit((photos * 255).long(), Smiling=True)


def test_nan_in_images(faces, photos):
    photos[3, 0, 1, 1] = NAN
    with refused(InputError, "finite", r"rows \[3\]"):
        faces.edit(photos, Smiling=True)


def test_nan_in_latents():
    mean = torch.zeros(4, 8)
    mean[2, 5] = NAN
    with refused(InputError, "mean must be finite", r"rows \[2\]"):
        Latents(mean)


def test_labels_out_of_range():
    with refused(InputError, "'Smiling' of row 1 is -1", "Map -1 to 0"):
        Latents(torch.zeros(2, 8), labels=torch.tensor([[1.0], [-1.0]]), names=["Smiling"])


@pytest.mark.parametrize("ask", ["sample", "edit", "hold", "getitem"])
def test_an_unknown_attribute_lists_the_nearest(faces, photos, ask):
    with refused(UnknownNameError, "no attribute named 'Smilling'", "Did you mean 'Smiling'"):
        if ask == "sample":
            faces.sample(2, Smilling=True)
        elif ask == "edit":
            faces.edit(photos, Smilling=True)
        elif ask == "hold":
            faces.edit(photos, Male=True, hold=["Smilling"])
        else:
            faces.critic["Smilling"]


def test_an_attribute_without_similar_names_lists_all(faces):
    with refused(UnknownNameError, "'Zebra'", "Known: Hat, Male, Smiling"):
        faces.sample(2, Zebra=True)


def test_named_and_in_where(faces, photos):
    where = ~faces.critic["Smiling"] | faces.critic["Hat"]
    with refused(InputError, "Smiling is requested by name and in `where`", "one of them"):
        faces.sample(2, where=where, Smiling=True)
    with refused(InputError, "Hat, Smiling is requested by name and in `where`"):
        faces.edit(photos, where=where, y=torch.tensor([[1.0, NAN, 0.0]]))


def test_targets_and_names(faces):
    with refused(InputError, "as `y` or by name, not both"):
        faces.sample(2, y=torch.ones(2, 3), Smiling=True)


@pytest.mark.parametrize("value", [1.5, -0.1, float("inf"), [0.5, 7]])
def test_a_target_out_of_range(faces, value):
    with refused(InputError, r"probabilities in \[0, 1\]", "True and False are 1 and 0"):
        faces.sample(2, Smiling=value)


@pytest.mark.parametrize("value", ["yes", [True, "no"], object(), [[0, 1], [1, 0]]])
def test_a_target_that_is_no_number(faces, value):
    with refused(InputError, "Smiling takes True, False, a probability", "found"):
        faces.sample(2, Smiling=value)


def test_as_many_values_as_samples(faces):
    with refused(InputError, "Smiling has 2 values for 3 samples"):
        faces.sample(3, Smiling=[True, False])
    for shape in ((2, 3), (3, 2), (3,)):
        with refused(ShapeError, r"\(3, 3\) or \(1, 3\)", "Smiling, Male, Hat"):
            faces.sample(3, y=torch.zeros(shape))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_only(latents, value):
    labels = latents.labels.clone()
    labels[:, 1] = value
    one = Latents(latents.mean, latents.std, labels, NAMES)
    with refused(InputError, f"'Male' has only {value:g} in 3000 samples", "both classes"):
        AttributeCritic.fit(one)


def test_no_label_at_all(latents):
    unknown = Latents(latents.mean, labels=latents.labels[:, :1] * NAN, names=["Smiling"])
    with refused(InputError, "'Smiling' has no known value in 3000 samples"):
        AttributeCritic.fit(unknown)
    with refused(InputError, "learns from labels; these latents have none"):
        AttributeCritic.fit(latents.select([]))


def test_an_unreachable_request_ends_and_is_reported(faces, photos):
    never = faces.critic["Male"] & ~faces.critic["Male"]
    out = faces.edit(photos, where=never)
    assert not out.satisfied.any() and (out.evaluations >= 15).all()
    assert (out.evaluations <= 16).all() and torch.isfinite(out.x).all()
    far = faces.sample(3, where=Linear(torch.zeros(8), -50.0))
    assert not far.satisfied.any() and "0 satisfied" in repr(far)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 95, NAN])
def test_threshold_out_of_range(decoder, critic, threshold):
    with refused(InputError, r"threshold is a probability in \(0, 1\)", str(threshold)):
        condition(decoder, critic, threshold=threshold)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, NAN])
def test_realism_threshold_out_of_range(critic, threshold):
    with refused(InputError, r"realism_threshold is a probability in \[0, 1\)"):
        Ascent(critic, realism_threshold=threshold)


@pytest.mark.parametrize("strength", [-0.5, NAN, float("inf")])
def test_strength_out_of_range(faces, strength):
    with refused(InputError, "strength is the share of a move", str(strength)):
        faces.sample(2, Smiling=True, strength=strength)


def test_no_steps(critic):
    with refused(InputError, "at least one step", "0"):
        Transport(critic, steps=0)


def test_an_edit_without_an_encoder():
    decoder = wrap(torch.nn.Linear(4, 12), decode="forward")
    faces = condition(decoder, AttributeCritic((4,), ["Smiling"], width=8))
    with refused(AdapterError, "without an encoder", "encode="):
        faces.edit(torch.zeros(2, 12), Smiling=True)


def test_a_recipe_reports_errors_without_a_traceback(tmp_path):
    flags = "--max_train_samples 40 --max_test_samples 20 --decoder no.py:load"
    done = launch("celeba_attrs.py", flags, cwd=tmp_path, by=())
    assert done.returncode == 1 and "'no.py' is not a file" in done.stderr
    assert "Traceback" not in done.stderr
