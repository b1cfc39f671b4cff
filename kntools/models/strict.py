"""Weights read from files: one that is missing is an error, where transformers makes up random ones and warns."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge.sources import transformers as boot
from transformers import AutoConfig

_ADVICE = "save the whole model there again with save_pretrained"


@dataclass(frozen=True)
class StrictLoader:
    """A Hugging Face class, the `from_pretrained` of which raises a ValueError where files lack weights."""

    model_class: Any

    def from_pretrained(self, files: str | Path, **options: Any) -> Any:
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the report names those
        try:
            model, report = self.model_class.from_pretrained(files, **options)
        except RuntimeError as error:  # experts that transformers joins: one is missing, or has another shape
            raise ValueError(f"the weights in {str(files)!r} cannot be read ({error}); {_ADVICE}") from error
        _check_complete(str(files), model, **report)
        return model


def strict_loader(files: str | Path) -> StrictLoader:
    """The one with the class that a TransformerBridge takes for these files."""
    architecture = boot.determine_architecture_from_hf_config(AutoConfig.from_pretrained(files))
    return StrictLoader(boot.get_hf_model_class_for_architecture(architecture))


def _check_complete(
    files: str,
    model: Any,
    missing_keys: Collection[str],
    unexpected_keys: Iterable[str],
    mismatched_keys: Iterable[tuple[str, Any, Any]],
    **_: Any,
) -> None:
    kind = type(model).__name__
    if shapes := [f"{key} is {[*found]}, not {[*expected]}" for key, found, expected in sorted(mismatched_keys)]:
        raise ValueError(
            f"weights in {files!r} have other shapes than {kind} with its config.json: {some(shapes)}; {_ADVICE}"
        )
    if missing_keys:
        ends = [key.removesuffix(lost) for key in unexpected_keys for lost in missing_keys if key.endswith(lost)]
        advice = f"the names there begin with {min(ends)!r}: rename them without it" if ends else _ADVICE
        raise ValueError(
            f"the weights in {files!r} lack {len(missing_keys)} of the {len(model.state_dict())} of {kind}: "
            f"{some(sorted(missing_keys))}; {advice}"
        )


def some(names: Iterable[str]) -> str:
    """Three of them."""
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
