"""The first lines to run: attribute an answer, find its neurons, switch them off.

python examples/quickstart.py [MODEL]
"""

import sys

import kntools as kn

model = kn.load_model(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", prepend_bos=False)
texts = [
    "The capital of Canada is",
    "The national capital of Canada is",
    "The government of Canada sits in its capital,",
    "The Canadian parliament is in the city of",
]
prompts = [kn.Prompt(text, " Ottawa") for text in texts]

att = kn.integrated_gradients(model, prompts)
print(att)

neurons = kn.knowledge_neurons(att)
print(neurons)

# Hooks are plain TransformerLens hooks; a sweep runs many interventions in few forward passes.
encoded = kn.encode(model, prompts[0])
interventions = [[], kn.ablate_neurons(neurons), kn.enhance_neurons(neurons)]
found = kn.sweep(model, encoded, interventions, metric=kn.probability(encoded.target_ids))
before, without, doubled = found.tolist()
print(f"P( Ottawa) = {before:.3f}; without these neurons {without:.3f}; with twice their activation {doubled:.3f}")
