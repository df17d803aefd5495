"""The download, by the real client, from a server on this machine that stands for the hub."""

import hashlib
import http.server
import json
import logging
import threading

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy

from cxjax.features.hub import fetch_tensors
from cxjax.features.readers import open_safetensors
from cxjax.features.weights import load_vgg
from tests.features import vgg_oracle, weight_files

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/vgg19.tv_in1k"


class _Hub(http.server.ThreadingHTTPServer):
    """One file in one repository. The attributes say how it misbehaves."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.announced = content  # what the size and the sha256 are of
        self.ranges = True
        self.breaks = 0  # how many more answers break off in the middle
        self.status = 200
        self.sent = 0
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        hub = self.server
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        digest = hashlib.sha256(hub.announced).hexdigest()
        status, headers = hub.status, {}
        if status != 200:
            body = b"{}"
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            lfs = {"sha256": digest, "size": len(hub.announced), "pointerSize": 134}
            file = {"rfilename": "model.safetensors", "size": len(hub.announced), "lfs": lfs}
            readme = {"rfilename": "README.md", "size": 3}
            found = {"id": REPOSITORY, "sha": REVISION, "siblings": [readme, file]}
            body = json.dumps(found).encode()
            headers["Content-Type"] = "application/json"
        elif self.path == f"/{REPOSITORY}/resolve/{REVISION}/model.safetensors":
            body = hub.content
            headers["ETag"] = f'"{digest}"'
            headers["X-Repo-Commit"] = REVISION
            span = self.headers.get("Range")
            if span and hub.ranges:
                first, last = map(int, span.removeprefix("bytes=").split("-"))
                status, body = 206, body[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(hub.content)}"
        else:
            status, body = 404, b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if hub.breaks and "/resolve/" in self.path:
            hub.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        hub.sent += len(body)


TENSORS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b.unwanted": np.ones(500_000, np.float32),
    "c.bias": np.arange(5, dtype=np.float32),
    "d.weight": np.arange(60_000, dtype=np.float32).reshape(200, 300),
    "e.unwanted": np.ones(500_000, np.float32),
}
KEYS = ("d.weight", "a.weight", "c.bias")


@pytest.fixture
def hub(monkeypatch):
    server = _Hub(safetensors.numpy.save(TENSORS, {"format": "pt"}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _fetch(folder, keys=KEYS):
    return fetch_tensors(REPOSITORY, "model.safetensors", keys, folder)


def _assert_fetched(path):
    with open_safetensors(path) as entries:
        assert set(entries) == set(KEYS)
        for key in KEYS:
            np.testing.assert_array_equal(entries[key].read(), TENSORS[key])


def test_only_the_wanted_bytes_are_fetched(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    _assert_fetched(_fetch(tmp_path))
    wanted = sum(TENSORS[key].nbytes for key in KEYS)
    assert hub.sent < wanted + 150_000 < len(hub.content) / 8  # the header comes in 100 kB
    assert "fetching 0 of 4 MB" in caplog.text
    ranges = [span for _, path, span in hub.asked if "resolve" in path]
    assert len(ranges) == 3  # the header, one tensor, and two that follow one another
    assert None not in ranges


def test_a_long_header_is_fetched_to_its_end(hub, tmp_path):
    hub.content = hub.announced = safetensors.numpy.save(TENSORS, {"note": "x" * 150_000})
    _assert_fetched(_fetch(tmp_path))


def test_without_ranges_the_whole_file_is_fetched_and_its_size_said(hub, tmp_path, caplog):
    hub.ranges = False
    _assert_fetched(_fetch(tmp_path))
    assert "comes only whole: fetching 4 MB" in caplog.text


def test_a_whole_file_of_wrong_content_is_refused(hub, tmp_path):
    hub.ranges = False
    changed = bytearray(hub.content)
    changed[-1] ^= 1  # not even in a wanted tensor
    hub.content = bytes(changed)
    with pytest.raises(
        ValueError, match=r"has sha256 \w+, but the hub says \w+: .* fetch it again"
    ):
        _fetch(tmp_path)


def test_a_page_instead_of_the_file_is_refused(hub, tmp_path):
    hub.content = b"<!DOCTYPE html>" + bytes(len(hub.content))
    with pytest.raises(ValueError, match="is not a safetensors file: it begins b'<!DOC"):
        _fetch(tmp_path)


def test_a_file_shorter_than_announced_is_refused(hub, tmp_path):
    hub.content = hub.content[:-1_900_000]
    hub.announced = hub.content
    with pytest.raises(ValueError, match="another size than its header says"):
        _fetch(tmp_path)


def test_fewer_bytes_than_asked_for_are_refused(hub, tmp_path):
    hub.content = hub.content[:2_100_000]
    with pytest.raises(ValueError, match=r"sent \d+ bytes instead of \d+"):
        _fetch(tmp_path)


def test_a_missing_tensor_and_another_dtype_are_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="has no 'f.weight'"):
        _fetch(tmp_path, ("a.weight", "f.weight"))
    hub.content = hub.announced = safetensors.numpy.save({"a.weight": np.ones(3)})
    with pytest.raises(ValueError, match="'a.weight' in .* is F64, not F32"):
        _fetch(tmp_path, ("a.weight",))


def test_a_broken_connection_is_gone_on_with(hub, tmp_path, caplog):
    hub.breaks = 2
    _assert_fetched(_fetch(tmp_path))
    assert "resuming" in caplog.text
    starts = [span for _, path, span in hub.asked if "resolve" in path]
    assert starts[0] == "bytes=0-99999"
    assert starts[1] == "bytes=50000-99999"
    assert starts[2] == "bytes=75000-99999"


def test_a_connection_that_always_breaks_is_given_up(hub, tmp_path):
    hub.breaks = 1000
    with pytest.raises(ConnectionError, match="peer closed connection"):
        _fetch(tmp_path)
    assert len(hub.asked) == 4  # the repository's information, and three attempts


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_refusal_of_the_hub_is_reported(hub, tmp_path, status):
    hub.status = status
    with pytest.raises(ConnectionError, match=str(status)):
        _fetch(tmp_path)


def test_offline_mode_is_respected(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
        _fetch(tmp_path)
    assert hub.asked == []


# load_vgg on top of it, with the true keys and shapes.


def _true_file(weights):
    state = weight_files.state_dict("vgg19", weights, "head.fc")
    state["head.fc.weight"] = np.zeros((1000, 4096), np.float32)
    return safetensors.numpy.save(state, {"format": "pt"})


@pytest.mark.parametrize("ranges", [True, False])
def test_load_vgg_downloads_once_and_verifies_ever_after(hub, own_cache, vgg19_weights, ranges):
    hub.content = hub.announced = _true_file(vgg19_weights)
    hub.ranges = ranges
    model, variables = load_vgg("vgg19")
    for name, (kernel, bias) in zip(vgg_oracle.names("vgg19"), vgg19_weights, strict=True):
        np.testing.assert_array_equal(variables["params"][name]["kernel"], kernel)
        np.testing.assert_array_equal(variables["params"][name]["bias"], bias)
    assert model.statistics.scale == 1
    (cached,) = own_cache.iterdir()  # and nothing half done beside it
    assert cached.stat().st_size < 80.2e6
    hub.asked.clear()
    _, again = load_vgg("vgg19")
    np.testing.assert_array_equal(
        again["params"]["conv5_4"]["kernel"], variables["params"]["conv5_4"]["kernel"]
    )
    assert hub.asked == []
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    with pytest.raises(ValueError, match=r"in .*vgg19.tv_in1k.safetensors is not what was stored"):
        load_vgg("vgg19")


def test_what_cannot_be_ported_is_not_kept(hub, own_cache, vgg19_weights):
    narrow = [(np.ones((3, 3, 1, 2), np.float32), np.ones(2, np.float32)) for _ in range(16)]
    hub.content = hub.announced = _true_file(narrow)
    with pytest.raises(ValueError, match=r"'features.0.weight' .* it should have \(64, 3, 3, 3\)"):
        load_vgg("vgg19")
    assert list(own_cache.iterdir()) == []


def test_a_broken_download_leaves_nothing_and_says_what_to_do(hub, own_cache):
    hub.breaks = 1000
    with pytest.raises(ConnectionError, match="peer closed .* get https://download.pytorch.org"):
        load_vgg("vgg19")
    assert list(own_cache.iterdir()) == []
