import numpy as np
import pytest

from tests.features import vgg_oracle


@pytest.fixture(scope="session")
def vgg19_weights():
    return vgg_oracle.random_weights("vgg19")


@pytest.fixture(scope="session")
def vgg16_weights():
    return vgg_oracle.random_weights("vgg16", seed=1)


@pytest.fixture(scope="session")
def image():
    """Odd, not square, its channels unlike one another: 0 to 0.3, 0.3 to 0.6 and 0.6 to 0.9."""
    noise = np.random.default_rng(2).random((37, 51, 3), np.float32)
    return np.float32(0.3) * (noise + np.arange(3, dtype=np.float32))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own for each test, and no hub: nothing that a machine holds is found."""
    monkeypatch.setenv("CXJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"
