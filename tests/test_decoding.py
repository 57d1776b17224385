"""Decoding ahead of the engine: the same pictures in the same order from any number of processes, which all end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.config import Preprocessing
from eval.decoding import _begin, _context, decode, decode_ahead

ROOT = Path(__file__).resolve().parents[1]
SIZE = Preprocessing(16, 16)
RUNNING = """
import multiprocessing, signal, sys, time
from pathlib import Path
from captioner.config import Preprocessing
from eval.decoding import decode_ahead

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
ahead = decode_ahead([[Path(sys.argv[1])]] * 100, Preprocessing(16, 16), workers=2)
next(ahead)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
try:
    time.sleep(120)
finally:
    ahead.close()
"""


class Counting(list):
    """A list that knows how many of its items were taken."""

    taken = 0

    def __iter__(self):
        for item in super().__iter__():
            self.taken += 1
            yield item


@pytest.fixture
def batches(tmp_path):
    """Ten batches of two: in batch n a picture all of grey 20 n and one of grey 20 n + 1."""
    for grey in range(200):
        if grey % 20 < 2:
            Image.new("RGB", (16, 16), (grey, grey, grey)).save(tmp_path / f"{grey}.png")
    return Counting([tmp_path / f"{20 * n}.png", tmp_path / f"{20 * n + 1}.png"] for n in range(10))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_does_not_depend_on_the_number_of_workers(batches, workers):
    found = [decoded.pixels_BHW3 for decoded in decode_ahead(batches, SIZE, workers)]
    assert all(pixels_BHW3.shape == (2, 16, 16, 3) and pixels_BHW3.dtype == np.uint8 for pixels_BHW3 in found)
    assert [pixels_BHW3[:, 0, 0, 0].tolist() for pixels_BHW3 in found] == [[20 * n, 20 * n + 1] for n in range(10)]
    assert multiprocessing.active_children() == []


def test_no_more_batches_are_in_hand_than_asked_for(batches):
    with closing(decode_ahead(batches, SIZE, workers=2, ahead=1)) as ahead:
        assert batches.taken == 0
        for taken in (3, 4, 5):
            next(ahead)
            assert batches.taken == taken
        assert 1 <= len(multiprocessing.active_children()) <= 2
    assert multiprocessing.active_children() == []


def test_a_picture_that_cannot_be_read_spoils_only_itself(batches, tmp_path):
    (good, other), folder = batches[3], tmp_path / "folder.png"
    folder.mkdir()
    (tmp_path / "empty.png").touch()
    decoded = decode([tmp_path / "no.png", good, folder, other, tmp_path / "empty.png"], SIZE)
    assert decoded.pixels_BHW3[:, 0, 0, 0].tolist() == [60, 61]
    assert {place: why.reason for place, why in decoded.unreadable.items()} == {
        0: "FILE_MISSING",
        2: "FILE_UNREADABLE",
        4: "EMPTY_IMAGE",
    }
    assert decoded.unreadable[0].message == f"there is no file {tmp_path / 'no.png'}"
    assert decode([folder], SIZE).pixels_BHW3.shape == (0, 16, 16, 3)


def test_a_dead_worker_is_an_error_and_no_hang(batches):
    with closing(decode_ahead(batches, SIZE, workers=2)) as ahead:
        next(ahead)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"a process that decodes pictures died: .* from .*\.png on"):
            list(ahead)
    assert multiprocessing.active_children() == []


def test_workers_do_not_load_the_engine():
    with ProcessPoolExecutor(1, _context(), _begin) as pool:
        loaded = pool.submit(eval, "{name.partition('.')[0] for name in __import__('sys').modules}").result()
    assert "simplejpeg" in loaded
    assert not loaded & {"onnxruntime", "torch", "pycocotools"}


def ended(pid):
    """Gone, or dead and waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_they_work_for(batches, how):
    """kill -9 hits the main process alone; Ctrl-C in a terminal goes to all processes in it."""
    command = [sys.executable, "-c", RUNNING, str(batches[0][0])]
    main = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    assert workers
    if how == signal.SIGINT:
        os.killpg(main.pid, how)
    else:
        os.kill(main.pid, how)
    assert main.wait(60) == -how
    deadline = time.monotonic() + 60
    while not all(map(ended, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(ended, workers))
