"""Edits of many facts at once: the algebra in closed form, a plain reference, sequences, and what goes wrong."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.changes import Constraints, joined
from kntools.editing.joint_edit import JointEdit
from kntools.editing.rome_settings import RomeSettings
from kntools.models import adapter, neuron_layers
from kntools.sites import hook_name
from tests import zoo
from tests.plain_rome import text_keys

FACTS = [("Canada", " Ottawa", " Rome"), ("France", " Paris", " London"), ("Italy", " Rome", " Paris")]
PROMPTS = [kn.Prompt(f"The capital of {subject} is", answer, subject=subject) for subject, answer, _ in FACTS]
TARGETS = [target for *_, target in FACTS]
SHORT = RomeSettings(steps=4, templates=("{}", "Yes, it is. {}"))
pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+")  # a random model knows nothing, and edits say so


def constraints(n: int, width: int, out: int, seed: int, c: Tensor | None = None) -> Constraints:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(n, width, generator=generator, dtype=torch.float64)
    wanted = torch.randn(n, out, generator=generator, dtype=torch.float64)
    directions = keys if c is None else torch.linalg.solve(c, keys.T).T
    return Constraints(0, keys, directions, wanted, tuple(map(str, range(n))))


def positive(width: int, seed: int = 9) -> Tensor:
    a = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a.T @ a / (3 * width)


# --- the algebra -------------------------------------------------------------------------------------------


def test_equality_gives_every_key_its_value_with_the_least_change() -> None:
    c = positive(12)
    own = constraints(5, 12, 7, 1, c)
    update = own.solve().double()
    torch.testing.assert_close(own.keys @ update, own.wanted, rtol=1e-4, atol=1e-5)
    # The least change in the metric of C: the gradient C dW lies in the span of the keys.
    across = c @ update
    inside = own.keys.T @ torch.linalg.lstsq(own.keys.T, across).solution
    torch.testing.assert_close(across, inside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_system_that_is_not_symmetric_is_solved(seed: int) -> None:
    """Keys of the prompts with directions of mean keys: k . u may be negative, and u of any size."""
    own = constraints(3, 12, 7, seed)
    size = torch.tensor([[1e-4], [1.0], [1e5]], dtype=torch.float64)
    mixed = replace(own, directions=constraints(3, 12, 7, seed + 20).keys * size)
    torch.testing.assert_close(mixed.keys @ mixed.solve().double(), own.wanted, rtol=1e-4, atol=1e-4)
    for twice in ("keys", "directions"):  # either alone makes it impossible
        rows = getattr(mixed, twice).clone()
        rows[2] = -3 * rows[0]
        with pytest.raises(ValueError, match=r"those of 0 and 2 \(cosine 1\.0"):
            replace(mixed, **{twice: rows}).solve()


def test_a_ridge_is_the_published_form_of_memit_and_of_alpha_edit() -> None:
    c, lam = positive(12), 3.0
    own = constraints(5, 12, 7, 2, c)
    plain = torch.linalg.solve(lam * c + own.keys.T @ own.keys, own.keys.T @ own.wanted)
    torch.testing.assert_close(own.solve(lam).double(), plain, rtol=1e-4, atol=1e-6)

    values, vectors = torch.linalg.eigh(c)
    null = vectors[:, values < values.median()]
    projector = null @ null.T
    earlier, new = constraints(2, 12, 7, 3), constraints(4, 12, 7, 4)
    kp, k = earlier.keys, new.keys
    published = torch.linalg.solve(
        projector @ (kp.T @ kp + k.T @ k) + lam * torch.eye(12, dtype=torch.float64), projector @ k.T @ new.wanted
    )
    sets = [
        Constraints(0, new.keys, k @ projector, new.wanted, new.labels),
        Constraints(0, kp, kp @ projector, torch.zeros_like(earlier.wanted), earlier.labels),
    ]
    torch.testing.assert_close(joined(sets).solve(lam).double(), published, rtol=1e-4, atol=1e-6)


def test_one_batch_is_the_sequence_with_earlier_keys_kept() -> None:
    c = positive(12)
    first, second = constraints(3, 12, 7, 5, c), constraints(2, 12, 7, 6, c)
    together = joined([first, second]).solve().double()
    one = first.solve().double()
    left = Constraints(0, second.keys, second.directions, second.wanted - second.keys @ one, second.labels)
    kept = Constraints(0, first.keys, first.directions, torch.zeros_like(first.wanted), first.labels)
    torch.testing.assert_close(one + joined([left, kept]).solve().double(), together, rtol=1e-4, atol=1e-5)


# --- on models ---------------------------------------------------------------------------------------------


def test_one_fact_is_a_rank_one_edit_with_a_consistent_key() -> None:
    model = zoo.fresh("llama")
    c = text_keys(model, 1)
    rome = kn.rome(model, PROMPTS[0], TARGETS[0], layer=1, second_moment=c, settings=SHORT)
    joint = kn.emmet(model, PROMPTS[0], TARGETS[0], layers=1, second_moments=c, settings=SHORT)
    torch.testing.assert_close(joint.changes[0].update, rome.delta, rtol=1e-3, atol=1e-6)
    assert joint.after[0] == pytest.approx(rome.after, abs=1e-5)
    weak = kn.memit(model, PROMPTS[0], TARGETS[0], layers=1, second_moments=c, regularisation=1e-9, settings=SHORT)
    torch.testing.assert_close(weak.changes[0].update, rome.delta, rtol=1e-3, atol=1e-6)


def test_alpha_edit_without_a_projector_is_ridge_regression() -> None:
    model = zoo.fresh("llama")
    settings: dict[str, Any] = {"layers": [1], "settings": SHORT, "regularisation": 0.5}
    c = text_keys(model, 1)
    alpha = kn.alpha_edit(model, PROMPTS, TARGETS, second_moments=c, threshold=math.inf, **settings)
    ridge = kn.memit(model, PROMPTS, TARGETS, **settings)
    torch.testing.assert_close(alpha.changes[0].update, ridge.changes[0].update, rtol=1e-4, atol=1e-6)


def test_alpha_edit_writes_nothing_outside_of_the_null_space() -> None:
    model = zoo.fresh("llama")
    c = text_keys(model, 1)
    values, vectors = torch.linalg.eigh(c.matrix.double())
    limit = float(values.median())
    edit = kn.alpha_edit(
        model, PROMPTS, TARGETS, layers=1, second_moments=c, threshold=limit, regularisation=1e-3, settings=SHORT
    )
    update = edit.changes[0].update.double()
    used = vectors[:, values >= limit]
    assert float((used.T @ update).norm()) < 1e-4 * float(update.norm())
    with pytest.raises(ValueError, match="threshold"):
        kn.alpha_edit(model, PROMPTS, TARGETS, layers=1, second_moments=c, threshold=0.0, settings=SHORT)


@pytest.mark.parametrize("build", ["gpt2", "llama", "neox", "bloom"])
def test_every_key_has_its_value_in_the_edited_model(build: str) -> None:
    model = zoo.fresh(build)
    edit = kn.emmet(model, PROMPTS, TARGETS, layers=1, settings=SHORT)
    [own] = edit.constraints
    w = adapter.w_out(model, 1).detach().clone()
    before = own.keys @ w
    with edit.applied(model):
        after = own.keys @ adapter.w_out(model, 1).detach()
        plain = [_probability(model, p, t) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    torch.testing.assert_close(after - before, own.wanted, rtol=1e-3, atol=1e-4)
    assert plain == pytest.approx(list(edit.after), rel=1e-3, abs=0)  # of a random model they are tiny
    assert torch.equal(adapter.w_out(model, 1), w)


@torch.no_grad()
def _probability(model: Any, prompt: kn.Prompt, target: str) -> float:
    """Of the whole target, piece by piece."""
    e = kn.encode(model, kn.Prompt(prompt.text, target, multi_token="sum"))
    p = model(e.tokens)[0].float().softmax(-1)
    return math.prod(float(p[at, token]) for at, token in zip(e.positions, e.target_ids, strict=True))


@pytest.mark.parametrize("build", ["llama", "gpt2", "neox"])
def test_memit_spread_over_layers_is_the_plain_unbatched_loop(build: str) -> None:
    model = zoo.fresh(build)
    layers, lam = [0, 1], 0.05
    edit = kn.memit(model, PROMPTS, TARGETS, layers=layers, regularisation=lam, settings=SHORT)
    # The values come from the search, which the tests of `rome` check: read off what it wants of the first layer.
    delta = edit.constraints[0].wanted * len(layers)
    saved = {layer: adapter.w_out(model, layer).detach().clone() for layer in layers}
    start = torch.stack([_read(model, p, t, "resid_post", 1)[0] for p, t in zip(PROMPTS, TARGETS, strict=True)])
    try:
        for n, layer in enumerate(layers):
            reads = [_read(model, p, t, "mlp.hook_post", layer) for p, t in zip(PROMPTS, TARGETS, strict=True)]
            keys = torch.stack([torch.stack(rows).mean(0) for rows in reads]).double()
            state = torch.stack([_read(model, p, t, "resid_post", 1)[0] for p, t in zip(PROMPTS, TARGETS, strict=True)])
            wanted = ((delta - (state - start)) / (len(layers) - n)).double()
            eye = torch.eye(keys.shape[1], dtype=torch.float64)
            plain = torch.linalg.solve(lam * eye + keys.T @ keys, keys.T @ wanted).float()
            torch.testing.assert_close(edit.changes[n].update, plain, rtol=1e-3, atol=1e-5)
            with torch.no_grad():
                adapter.w_out(model, layer).add_(plain)
    finally:
        with torch.no_grad():
            for layer, w in saved.items():
                adapter.w_out(model, layer).copy_(w)


def _read(model: Any, prompt: kn.Prompt, target: str, site: str, layer: int) -> list[Tensor]:
    """A site at the subject's last token, one plain run per template."""
    rows = []
    for template in ("{}", "Yes, it is. {}"):
        text = template.replace("{}", prompt.text)
        e = kn.encode(model, kn.Prompt(text, target, subject=prompt.subject, multi_token="first"))
        kept: list[Tensor] = []
        model.run_with_hooks(
            e.tokens, fwd_hooks=[(hook_name(site, layer), lambda x, hook, kept=kept: kept.append(x.detach().clone()))]
        )
        assert e.subject is not None
        rows.append(kept[0][0, e.subject[-1]].float())
    return rows


def test_edits_of_one_layer_add_up_to_the_joint_solution() -> None:
    model = zoo.fresh("llama")
    one, two, three = kn.rome(model, PROMPTS, TARGETS, layer=1, settings=SHORT)
    joint = kn.emmet(model, PROMPTS, TARGETS, layers=1, settings=SHORT)
    total = one + two + three
    torch.testing.assert_close(total.changes[0].update, joint.changes[0].update, rtol=1e-3, atol=1e-5)
    ridge = kn.memit(model, PROMPTS[:1], TARGETS[:1], layers=1, regularisation=1.0, settings=SHORT)
    with pytest.raises(ValueError, match=r"kn\.emmet"):
        ridge + two


def test_an_edit_of_the_edited_model_leaves_earlier_facts_alone() -> None:
    model = zoo.fresh("llama")
    first = kn.emmet(model, PROMPTS[:2], TARGETS[:2], layers=1, settings=SHORT)
    with first.applied(model):
        own = first.constraints[0]
        before = own.keys @ adapter.w_out(model, 1).detach()
        second = kn.emmet(model, PROMPTS[2], TARGETS[2], layers=1, settings=SHORT)
        with second.applied(model):
            after = own.keys @ adapter.w_out(model, 1).detach()
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    alone = kn.emmet(model, PROMPTS[2], TARGETS[2], layers=1, settings=SHORT)
    assert float((own.keys @ alone.changes[0].update).norm()) > 1e-3  # alone, it would have changed them


def test_in_sequence_with_the_second_moment_of_the_unedited_model() -> None:
    model = zoo.fresh("llama")
    c = text_keys(model, 1)
    first = kn.emmet(model, PROMPTS[0], TARGETS[0], layers=1, second_moments=c, settings=SHORT)
    with first.applied(model):
        second = kn.emmet(model, PROMPTS[1], TARGETS[1], layers=1, second_moments=c, settings=SHORT)
        third = kn.rome(model, PROMPTS[2], TARGETS[2], layer=1, second_moment=c, settings=SHORT)
        own, new = first.constraints[0], second.constraints[0]
        update = second.changes[0].update.double()
        torch.testing.assert_close(own.keys.double() @ update, torch.zeros_like(own.wanted).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(new.keys.double() @ update, new.wanted.double(), atol=1e-4, rtol=1e-3)
        across = torch.linalg.solve(c.matrix.double() + third.ridge * torch.eye(len(c.matrix)), third.key.double())
        torch.testing.assert_close(third.left.double(), across / across.norm(), atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        adapter.w_out(model, 0)[0, 0] += 1  # a change that is no edit
    with pytest.raises(ValueError, match="other weights"):
        kn.emmet(model, PROMPTS[1], TARGETS[1], layers=1, second_moments=c, settings=SHORT)


def test_one_list_of_hooks_serves_many_prompts() -> None:
    model = zoo.fresh("llama")
    edit = kn.emmet(model, PROMPTS, TARGETS, layers=1, settings=SHORT)
    encoded = [kn.encode(model, p) for p in PROMPTS]
    hooks = edit.hooks(model)
    swept = kn.sweep(model, encoded, [kn.Intervention(tuple(hooks), prompt=n) for n in range(len(encoded))])
    with edit.applied(model), torch.no_grad():
        plain = torch.stack([model(e.tokens)[0, e.position] for e in encoded])
    torch.testing.assert_close(swept, plain, rtol=1e-4, atol=1e-4)
    unedited = torch.stack([model(e.tokens)[0, e.position].detach() for e in encoded])
    assert float((plain - unedited).abs().amax(1).min()) > 0.01  # each of them is changed by the edit


def test_it_is_saved_read_shown_and_drawn(tmp_path: Any) -> None:
    model = zoo.fresh("llama")
    edit = kn.emmet(model, PROMPTS, TARGETS, layers=1, settings=SHORT)
    edit.save(tmp_path / "edit.safetensors")
    again = kn.load(tmp_path / "edit.safetensors")
    assert isinstance(again, JointEdit) and again == edit
    assert edit.to_frame()["target"].tolist() == TARGETS
    assert list(edit.plot().data[1].y) == pytest.approx(list(edit.after))
    with again.applied(model):
        pass


def test_one_warning_says_what_an_edit_without_c_costs() -> None:
    model = zoo.fresh("llama")
    c = text_keys(model, 1)
    edits: dict[str, Any] = {
        "rome": lambda c: kn.rome(model, PROMPTS, TARGETS, layer=1, second_moment=c, settings=SHORT),
        "emmet": lambda c: kn.emmet(model, PROMPTS, TARGETS, layers=1, second_moments=c, settings=SHORT),
        "memit": lambda c: kn.memit(model, PROMPTS, TARGETS, layers=1, second_moments=c, settings=SHORT),
    }
    for name, edit in edits.items():
        for moment, count in ((None, 1), (c, 0)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                made = edit(moment)
            texts = [str(w.message) for w in caught if "not protected" in str(w.message)]
            assert len(texts) == count, name
            found = [w for one in (made if isinstance(made, list) else [made]) for w in one.warnings()]
            assert any("not protected" in w for w in found) == bool(count)
            width = neuron_layers.width(model, 1)
            assert all(f"kn.second_moment(model, 1, sample_texts(model, {32 * width:_}))" in t for t in texts)
            assert all(f"give {'second_moment' if name == 'rome' else 'second_moments'}=C" in t for t in texts)


# --- what is refused ---------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    monkeypatch.setattr("kntools.editing.joint_editing.find_values", lambda *a: pytest.fail("work was begun"))
    c = text_keys(model, 1)

    def refused(match: str, prompts: Any = PROMPTS, targets: Any = TARGETS, **more: Any) -> None:
        with pytest.raises(ValueError, match=match):
            kn.emmet(model, prompts, targets, **{"layers": [1], **more})

    refused("names a layer twice", layers=[1, 1])
    refused("no layers", layers=[])
    refused("two C of one layer", second_moments=[c, c])
    refused(r"no C for layer\(s\) \[0\]", layers=[0, 1], second_moments=c)
    refused("given twice", [PROMPTS[0], PROMPTS[0]], [" Rome", " Rome"])
    refused("two targets", [PROMPTS[0], PROMPTS[0]], [" Rome", " Paris"])
    again = kn.Prompt("They say the capital of Canada is", " Ottawa", subject="Canada")
    refused(r"edited to ' Rome'.* and to ' Paris'", [PROMPTS[0], again], [" Rome", " Paris"])
    refused("published", settings=RomeSettings(key="published"))
    with pytest.raises(IndexError):
        kn.emmet(model, PROMPTS, TARGETS, layers=[7])
    with pytest.raises(ValueError, match="above 0"):
        kn.memit(model, PROMPTS, TARGETS, layers=[1], regularisation=0.0)
    with pytest.raises(ValueError, match="needs second_moments"):
        kn.alpha_edit(model, PROMPTS, TARGETS, layers=[1], second_moments=None)
    width = neuron_layers.width(model, 1)
    many = [kn.Prompt(f"The {n} capital of Canada is", " Ottawa", subject="Canada") for n in range(width + 1)]
    refused("as many neurons", many, [" Rome"] * len(many))


def test_two_facts_with_one_key_are_an_error_that_names_both() -> None:
    model = zoo.fresh("llama")
    same = [kn.Prompt(f"The city Canada {word}", old, subject="Canada") for word, old in (("is", " a"), ("was", " b"))]
    with pytest.raises(ValueError, match=r"The city Canada is.*The city Canada was"):
        kn.emmet(model, same, [" Rome", " Paris"], layers=1, settings=SHORT)


def test_layers_share_no_edit_where_a_norm_follows_the_mlp() -> None:
    model = zoo.fresh("gemma2")
    with pytest.raises(ValueError, match=r"layers=\[1\]"):
        kn.memit(model, PROMPTS, TARGETS, layers=[0, 1], settings=SHORT)
    kn.memit(model, PROMPTS, TARGETS, layers=[1], settings=SHORT)
