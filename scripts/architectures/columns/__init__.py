"""The columns of the table, in its order: these modules fill `PRIMITIVES`."""

from importlib import import_module

from scripts.architectures.primitives import PRIMITIVES

for _name in ("loading", "sweeps", "attribution", "patching", "tracing", "editing", "generation"):
    import_module(f"{__name__}.{_name}")

__all__ = ["PRIMITIVES"]
