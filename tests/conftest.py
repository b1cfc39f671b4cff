"""What all tests share: no network, the real model loaded once, and a watch on global state."""

import gc
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from tests import shapes, zoo

shapes.check_only_shapes()  # before any module of kntools is imported; `import kntools` imports none

from kntools.options import options  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# Under pytest-xdist the workers share the cores, and so do the processes that tests start.
THREADS = max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
# One thread for tiny models: on a busy machine, splitting a 32 x 48 product makes it 10 x slower. From the start, so
# that what the fixtures of a module make has the last bits of what its tests make.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is imported by now stays: searching it for garbage again and again is a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks take longest and come first: in the end no process waits for one.

    Comparisons with the Hooked* classes run where transformer-lens still has them.
    """
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
    if zoo.has_hooked_classes():
        return
    reason = "this transformer-lens has no HookedTransformer; run `make test-legacy`"
    for item in items:
        if item.get_closest_marker("legacy"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def smollm2() -> TransformerBridge:
    """SmolLM2-135M, shared by all tests: leave it as you found it."""
    try:
        return kn.load_model("smollm2-135m", device="cpu")
    except ModuleNotFoundError as error:
        pytest.skip(str(error))  # the wheel is no dependency; the error is the command that installs it


@pytest.fixture(scope="session")
def gemma3() -> TransformerBridge:
    """Gemma 3 270M, shared by all tests: leave it as you found it."""
    try:
        return kn.load_model("gemma3-270m", device="cpu")
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the published data sets."""
    folder = Path(os.environ.get("KNTOOLS_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the published data sets are not here; point KNTOOLS_DATA at their folder")
    return folder


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """All threads for the real model."""
    torch.set_num_threads(THREADS if {"smollm2", "gemma3"} & {*request.fixturenames} else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_state_stays() -> Iterator[None]:
    """No test, and so nothing that it calls, may move the global random state, the default dtype or the options."""
    state, dtype, chosen = torch.random.get_rng_state(), torch.get_default_dtype(), options()
    yield
    after = options()
    kn.set_options(**asdict(chosen))
    assert after == chosen, "an option has changed; set it in a with block"
    moved = not torch.equal(state, torch.random.get_rng_state())
    torch.random.set_rng_state(state)
    assert not moved, "the global random state of torch has changed"
    assert torch.get_default_dtype() == dtype, "the default dtype of torch has changed"
