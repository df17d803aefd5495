"""Two processes on one machine, as two hosts would run: the numbers of one process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def start(count, folder, steps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_PLATFORMS": "cpu",
    }
    script = [sys.executable, str(Path(__file__).with_name("two_processes.py")), coordinator]
    return [
        subprocess.Popen(
            [*script, str(count), str(index), str(folder), str(steps)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def run(count, folder, steps):
    running = start(count, folder, steps)
    said = [process.communicate(timeout=120) for process in running]
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [np.array(json.loads(output.splitlines()[-1])) for output, _ in said]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def test_two_processes_give_the_numbers_of_one(tmp_path):
    (alone,) = run(1, tmp_path / "one", 5)
    run(2, tmp_path / "two", 3)
    first, second = run(2, tmp_path / "two", 5)  # resumed
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, rtol=1e-10)
    assert np.abs(alone - np.eye(3) - 0.1).max() > 0.05
    # Only process 0 writes, and each step once.
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert [step for step, _ in found] == [1, 2, 3, 4, 5]


def test_a_signal_to_one_process_saves_and_stops_both(tmp_path):
    running = start(2, tmp_path, 1_000_000)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            assert not any(process.poll() for process in running), running[0].communicate()
            time.sleep(0.1)
        running[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    stops = [re.search(r"stopped by SIGTERM after step (\d+); all is saved", text) for text in said]
    assert all(stops), said
    assert stops[0][1] == stops[1][1]
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(steps) == int(stops[0][1]) == losses(tmp_path)[-1][0]
