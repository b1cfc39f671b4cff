"""Models by name: a local folder, a Hugging Face id, or one of the two that kntools brings along."""

from kntools.models.load import load_model

__all__ = ["load_model"]
