"""Patching several pairs: which side is which, in both directions; what `normalized` divides by; roles of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.tracing.token_roles import ROLES, token_roles
from tests import zoo
from tests.loop import gradient_by_loop
from tests.patching.test_first_order import states
from tests.patching.test_patching import by_loop

BEFORE, FIRST, MIDDLE, LAST_OF_SUBJECT, SUBSEQUENT, FURTHER, LAST = ROLES


def pairs(name: str) -> tuple[list[kn.Prompt], list[kn.Prompt], list[tuple[str, str]]]:
    """Clean and corrupted prompts, and for each pair the answer and the foil that it is about.

    The second pair takes its foil from the corrupted prompt; the first and the third have one of their own, which is
    not the corrupted prompt's answer.
    """
    end, s = (" [MASK].", "") if zoo.RECIPES[name].masked else ("", " ")
    clean = [
        kn.Prompt(f"The capital of Canada is{end}", f"{s}Ottawa", foil=f"{s}Rome"),
        kn.Prompt(f"The capital of Japan is{end}", f"{s}Tokyo"),
        kn.Prompt(f"The capital of Cuba is{end}", f"{s}Havana", foil=f"{s}Oslo"),
    ]
    corrupted = [
        kn.Prompt(f"The capital of {country} is{end}", s + answer, foil=s + foil)
        for country, answer, foil in (
            ("France", "Paris", "Madrid"), ("Kenya", "Nairobi", "Ottawa"), ("Italy", "Rome", "Havana"),
        )
    ]  # fmt: skip
    about = [("Ottawa", "Rome"), ("Tokyo", "Nairobi"), ("Havana", "Oslo")]
    return clean, corrupted, [(s + answer, s + foil) for answer, foil in about]


def by_hand(model: Any, clean: kn.Prompt, answer: str, foil: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Metrics of one pair on logits `[1 d_vocab]`, written out."""
    [right], [wrong] = (kn.encode(model, kn.Prompt(clean.text, a)).target_ids for a in (answer, foil))
    own = kn.encode(model, clean)
    with torch.no_grad():
        base = model(own.tokens)[:, own.position].log_softmax(-1)
    return {
        "contrast": lambda x: x[:, right] - x[:, wrong],
        "logit_difference": lambda x: x[:, right] - x[:, wrong],
        "probability": lambda x: x.softmax(-1)[:, right],
        "log_probability": lambda x: x.log_softmax(-1)[:, right],
        "kl_divergence": lambda x: (base.exp() * (base - x.log_softmax(-1))).sum(-1),
    }


@pytest.mark.parametrize("noising", [False, True])
@pytest.mark.parametrize(
    "metric", [None, "contrast", "logit_difference", "probability", "log_probability", "kl_divergence"]
)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_each_side_has_its_own_runs_metric_about_the_clean_answer(name: str, metric: Any, noising: bool) -> None:
    model, (clean, corrupted, answers) = zoo.tiny(name), pairs(name)
    options: dict[str, Any] = {"site": "attn_out", "metric": metric, "noising": noising}
    exact, fast = (patch(model, clean, corrupted, **options) for patch in (kn.activation_patch, kn.attribution_patch))
    assert exact.metric == (metric or "contrast")
    for n, (a, b, (answer, foil)) in enumerate(zip(clean, corrupted, answers, strict=True)):
        here, there = kn.encode(model, a), kn.encode(model, b)
        value = by_hand(model, a, answer, foil)[exact.metric]
        with torch.no_grad():
            of_clean, of_corrupted = (float(value(model(e.tokens)[:, here.position])) for e in (here, there))
        gap = abs(of_clean - of_corrupted)
        assert gap > 5e-3 * abs(of_clean), "the sides cannot be told apart"
        start, source = (here, there) if noising else (there, here)
        cells = by_loop(
            model, start.tokens, source.tokens, "attn_out", value, here.tokens.shape[1],
            axis="position", pos=here.position,
        )  # fmt: skip
        for grid in (exact, fast):
            assert float(grid.clean_per_pair[n]) == pytest.approx(of_clean, abs=1e-3 * gap)
            assert float(grid.corrupted_per_pair[n]) == pytest.approx(of_corrupted, abs=1e-3 * gap)
        run = ~cells.isnan()
        torch.testing.assert_close(exact.per_pair[n][run], cells[run], atol=1e-3 * gap, rtol=1e-4)
        change = cells - (of_clean if noising else of_corrupted)
        torch.testing.assert_close(exact.effect_per_pair[n][run], change[run], atol=1e-3 * gap, rtol=1e-4)
        line = first_order(model, start.tokens, source.tokens, value, here.position)
        torch.testing.assert_close(fast.effect_per_pair[n], line, atol=1e-3 * gap, rtol=1e-3)


def test_a_function_does_not_get_the_name_of_one_of_ours() -> None:
    """What a result calls a probability lies between 0 and 1."""

    def probability(logits: Tensor) -> Tensor:
        return 100 * logits.softmax(-1)[:, 5]

    clean, corrupted, _ = pairs("llama")
    grid = kn.activation_patch(zoo.tiny("llama"), clean, corrupted, site="attn_out", metric=probability)
    assert grid.metric == "metric"
    assert bool(grid.interval().low.isfinite().all())


def first_order(model: Any, start: Tensor, source: Tensor, metric: Callable[[Tensor], Tensor], pos: int) -> Tensor:
    """(source activation - start activation) . d metric / d activation, of `attn_out`: `[layer position]`."""
    names = [f"blocks.{layer}.hook_attn_out" for layer in range(model.cfg.n_layers)]
    own, other = states(model, start, names), states(model, source, names)
    slopes = [gradient_by_loop(model, start, [], name, metric, pos) for name in names]
    return torch.stack([((other[k] - own[k]) * slope)[0].sum(-1) for k, slope in zip(names, slopes, strict=True)])


def test_metrics_given_one_per_pair_stay_with_their_pair_in_both_directions() -> None:
    """Also where the pairs have several lengths, so that they are run in another order."""
    model, (clean, corrupted, _) = zoo.tiny("llama"), pairs("llama")
    clean.insert(1, kn.Prompt("Is Canada near France? Yes, it is", " Paris"))
    corrupted.insert(1, kn.Prompt("Is Canada near Italy? Yes, it is", " Rome"))
    metrics = [kn.logit_difference(300 + n, 310 + 2 * n) for n in range(4)]
    for noising in (False, True):
        options: dict[str, Any] = {"site": "z", "heads": True, "noising": noising}
        grid = kn.activation_patch(model, clean, corrupted, metric=metrics, **options)
        for n, (a, b) in enumerate(zip(clean, corrupted, strict=True)):
            with torch.no_grad():
                sides = [model(kn.encode(model, p).tokens)[0, -1] for p in (a, b)]
            expected = [float(x[300 + n] - x[310 + 2 * n]) for x in sides]
            found = [float(grid.clean_per_pair[n]), float(grid.corrupted_per_pair[n])]
            assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("noising", [False, True])
def test_normalized_is_a_ratio_of_means(noising: bool) -> None:
    """By hand, for pairs with gaps of 4, 1/2 and 0: a mean of the pairs' own ratios would not even exist."""
    model, (clean, corrupted, _) = zoo.tiny("llama"), pairs("llama")
    measured = kn.activation_patch(model, clean, corrupted, layers=[1, 2], positions=[-1], noising=noising)
    grid = replace(
        measured,
        per_pair=torch.tensor([[[2.0], [4.0]], [[1.0], [0.5]], [[3.0], [0.0]]]),
        clean_per_pair=torch.tensor([4.0, 1.0, 1.0]),
        corrupted_per_pair=torch.tensor([0.0, 0.5, 1.0]),
    )
    # Means of the cells: 2 and 1.5; of the sides: 2 and 1/2. 0 is as corrupted and 1 as clean, whichever is patched.
    torch.testing.assert_close(grid.normalized, torch.tensor([[1.0], [2 / 3]]))
    both = replace(
        grid, per_pair=grid.per_pair[:2], clean_per_pair=grid.clean_per_pair[:2],
        corrupted_per_pair=grid.corrupted_per_pair[:2],
    )  # fmt: skip
    # (1.5 - 0.25) / (2.5 - 0.25) and (2.25 - 0.25) / 2.25; means of ratios would be 3/4 and 1/2.
    torch.testing.assert_close(both.normalized, torch.tensor([[5 / 9], [8 / 9]]))
    same = torch.tensor([0.0, 1.0, 0.5])
    for clean in (same, same * (1 + 1e-6)):  # ... but for rounding
        with pytest.raises(ValueError, match="the same for both"):
            _ = replace(grid, clean_per_pair=clean).normalized


def test_roles_where_the_answer_stands_before_the_subject() -> None:
    assert token_roles(8, range(3, 6), answer=1) == (
        BEFORE, LAST, BEFORE, FIRST, MIDDLE, LAST_OF_SUBJECT, SUBSEQUENT, FURTHER,
    )  # fmt: skip
    assert token_roles(4, range(1, 3), answer=0) == (LAST, FIRST, LAST_OF_SUBJECT, SUBSEQUENT)
    assert token_roles(4, range(3, 4), answer=2) == (BEFORE, BEFORE, LAST, LAST_OF_SUBJECT)


def test_roles_in_a_trace_of_a_masked_model_whose_mask_comes_first() -> None:
    model = zoo.tiny("bert")
    prompt = kn.Prompt("[MASK] is the capital of Canada.", "Ottawa", subject="Canada")
    trace = kn.causal_trace(model, prompt, noise=0.3, samples=1)
    tokens = [t.strip() for t in trace.tokens]
    assert tokens == ["[CLS]", "[MASK]", "is", "the", "capital", "of", "Canada", ".", "[SEP]"]
    assert trace.roles == (BEFORE, LAST, *[BEFORE] * 4, LAST_OF_SUBJECT, SUBSEQUENT, FURTHER)
    rows = dict(zip(ROLES, trace.by_role(), strict=True))
    torch.testing.assert_close(rows[LAST], trace.effect[:, 1])
    torch.testing.assert_close(rows[BEFORE], trace.effect[:, [0, 2, 3, 4, 5]].mean(1))
    torch.testing.assert_close(rows[SUBSEQUENT], trace.effect[:, 7])
    assert rows[FIRST].isnan().all() and rows[MIDDLE].isnan().all()
