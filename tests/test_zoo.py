"""The tiny models are what the other tests take them for: above all, that a neuron is an input of W_out."""

import pytest
import torch

from tests import zoo


def tokens(name: str) -> torch.Tensor:
    ending = " [MASK]." if zoo.RECIPES[name].masked else ""
    return zoo.tiny(name).to_tokens("The capital of Canada is" + ending)


@pytest.mark.parametrize("name", zoo.ALL)
def test_neuron_identity(name: str) -> None:
    model = zoo.tiny(name)
    _, cache = model.run_with_cache(tokens(name))
    for layer, block in enumerate(model.blocks):
        neurons = cache[f"blocks.{layer}.mlp.hook_post"]
        assert neurons.shape[-1] == zoo.D_MLP
        written = neurons @ block.mlp.W_out
        if block.mlp.b_out is not None:
            written = written + block.mlp.b_out
        # Not hook_mlp_out: Gemma-2 normalises between the two.
        torch.testing.assert_close(written, cache[f"blocks.{layer}.mlp.out.hook_out"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", zoo.ALL)
def test_one_neuron_visibly_moves_the_probabilities(name: str) -> None:
    model = zoo.tiny(name)

    def largest_change(neuron: int) -> float:
        def silence(activation: torch.Tensor, hook: object) -> torch.Tensor:
            changed = activation.clone()
            changed[..., neuron] = 0
            return changed

        logits = model.run_with_hooks(tokens(name), fwd_hooks=[("blocks.1.mlp.hook_post", silence)])
        return (logits.softmax(-1) - clean).abs().max().item()

    with torch.inference_mode():
        clean = model(tokens(name)).softmax(-1)
        assert max(map(largest_change, range(zoo.D_MLP))) > 0.02


def test_models_and_tokenizers_are_the_same_in_every_process() -> None:
    # Written down once; another value means that stored expectations elsewhere are off too.
    ids = torch.arange(5, 17)[None]
    sums = {name: zoo.tiny(name)(ids).sum().item() for name in ("gpt2", "gemma2", "bert")}
    assert sums == pytest.approx({"gpt2": 477.3748, "gemma2": -271.9841, "bert": 502.3907}, abs=0.01)


@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_common_words_are_one_token_and_rare_ones_several(name: str) -> None:
    words = zoo.tokenizer(name)
    for word in (" Ottawa", " Paris", " capital", "The"):
        assert len(words.tokenize(word)) == 1
    assert len(words.tokenize(" Ouagadougou")) > 1


def test_a_masked_model_has_its_special_tokens() -> None:
    assert zoo.tiny("bert").to_str_tokens("Is Canada [MASK]?") == [
        "[CLS]",
        "Is",
        "Canada",
        "[MASK]",
        "?",
        "[SEP]",
    ]


@pytest.mark.legacy
@pytest.mark.parametrize("name", zoo.TWINS)
def test_twin_has_the_same_probabilities(name: str) -> None:
    bridge, twin = zoo.tiny(name)(tokens(name)), zoo.hooked_twin(name)(tokens(name))
    torch.testing.assert_close(twin.softmax(-1), bridge.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.legacy
@pytest.mark.parametrize("name", zoo.TWINS)
def test_neuron_identity_of_the_twin(name: str) -> None:
    twin = zoo.hooked_twin(name)
    _, cache = twin.run_with_cache(tokens(name))
    _, bridge = zoo.tiny(name).run_with_cache(tokens(name))
    for layer, block in enumerate(twin.blocks):
        post, out = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.hook_mlp_out"
        torch.testing.assert_close(cache[post] @ block.mlp.W_out + block.mlp.b_out, cache[out])
        torch.testing.assert_close(cache[post], bridge[post], atol=1e-4, rtol=1e-4)
