"""What a result needs to say to be made again: model, weights, settings, versions."""

from importlib.metadata import version
from typing import Any

import kntools
from kntools.models import adapter
from kntools.results.encoding import encode
from kntools.results.fingerprint import fingerprint

_LIBRARIES = {name: version(name) for name in ("transformer-lens", "transformers", "torch")}


def provenance(model: Any, **settings: Any) -> dict[str, Any]:
    """The model's name, a fingerprint of its weights, settings as JSON has them, and versions of libraries.

    Make it before the work: settings that cannot be written down are refused here (TypeError).
    """
    written = encode(settings, "settings")
    return {
        "model": adapter.model_name(model),
        "fingerprint": fingerprint(model),
        "settings": written,
        "versions": {"kntools": kntools.__version__, **_LIBRARIES},
    }
