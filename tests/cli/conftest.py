"""What tests of commands share: a tiny model in a local folder."""

import pytest

from tests.cli.test_cli import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama"))
