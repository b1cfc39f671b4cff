"""What a result needs to say to be made again: model, weights, settings, versions."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kntools.models import adapter
from kntools.results.encoding import encode
from kntools.results.fingerprint import fingerprint

_LIBRARIES = ("kntools", "transformer-lens", "transformers", "torch")


def provenance(model: Any, **settings: Any) -> dict[str, Any]:
    """The model's name, a fingerprint of its weights, settings as JSON has them, and versions of libraries.

    Make it before the work: settings that cannot be written down are refused here (TypeError).
    """
    written = encode(settings, "settings")
    return {
        "model": adapter.model_name(model),
        "fingerprint": fingerprint(model),
        "settings": written,
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # kntools run from a checkout that was not installed
        return "not installed"
