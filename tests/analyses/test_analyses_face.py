"""The names that `kn.analyses` shows, and what every result of an analysis offers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import kntools as kn

RESULTS = (
    "AttributionProfile",
    "PairSearch",
    "Localisation",
    "LayerDistribution",
    "SuppressionEffect",
    "CooccurrenceBias",
    "ProbabilityShift",
    "Reliability",
    "TracingProfile",
    "SelectionMethods",
    "PlantedFacts",
)


def test_the_functions_of_the_design_are_functions_whatever_was_imported() -> None:
    modules = {m.name for m in pkgutil.iter_modules(kn.analyses.__path__)}
    for module in modules:
        importlib.import_module(f"kntools.analyses.{module}")
    assert not modules & set(kn.analyses.__all__), "a name is a function or a module, never both"
    for name in kn.analyses.__all__:
        value = getattr(kn.analyses, name)
        assert not inspect.ismodule(value) and (callable(value) or name.isupper())


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_has_the_same_interface(name: str) -> None:
    result = getattr(kn.analyses, name)
    for method in ("to_frame", "summary", "tables", "plot", "save", "describe"):
        required = [
            p.name
            for p in list(inspect.signature(getattr(result, method)).parameters.values())[1:]
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "path"
        ]
        assert required == [], f"{name}.{method}() needs {required}"


@pytest.mark.parametrize("name", [n for n in kn.analyses.__all__ if n.islower()])
def test_no_function_has_an_argument_that_belongs_to_the_machine(name: str) -> None:
    arguments = inspect.signature(getattr(kn.analyses, name)).parameters
    assert not {"prepend_bos", "max_rows", "progress", "multi_token"} & set(arguments)
