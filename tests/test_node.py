"""The server called from Node with @grpc/grpc-js, whose stubs come from the proto file alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from captioner import Captioner
from tests.running_server import jpeg, running

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).with_name("node")


@pytest.fixture(scope="module")
def program() -> Path:
    """call.js beside its packages, which are kept until one of its files changes."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    files = [FOLDER / name for name in ("call.js", "package.json", "package-lock.json")]
    digest = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    kept = ROOT / ".cache" / "node" / digest
    if not (kept / "installed").exists():
        kept.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copy(path, kept)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1", "--fetch-timeout", "20000"]
        try:
            subprocess.run(["npm", "ci", *quiet], cwd=kept, check=True, capture_output=True, text=True, timeout=120)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"npm could not install the packages: {error.stderr.strip()[-300:]}")
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not install the packages in 120 s")
        (kept / "installed").touch()
    return kept / "call.js"


def test_every_kind_of_call(program: Path, tiny_bundle_answers: Path) -> None:
    captioner = Captioner.load(tiny_bundle_answers, threads=1)
    photo = jpeg()
    with running(captioner) as server:
        ran = subprocess.run(
            ["node", program, server.target, ROOT / "proto"],
            input=photo, capture_output=True, timeout=60, env={**os.environ, "no_proxy": "127.0.0.1"},
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["health"] == "SERVING"
    assert (found["model"]["name"], found["model"]["version"]) == ("tiny", captioner.bundle.version)
    assert found["model"]["image_limits"]["max_bytes"] == 16 * 2**20
    expected = captioner.caption(photo, captions=2)
    assert [caption["text"] for caption in found["captions"]] == [caption.text for caption in expected]
    assert [caption["log_prob"] for caption in found["captions"]] == [caption.log_prob for caption in expected]
    answers = captioner.answer(photo, "what is the colour", top=2)
    assert [answer["text"] for answer in found["answered"]["answers"]] == [answer.text for answer in answers.answers]
    assert sum(found["answered"]["attention"]["weights"]) == pytest.approx(1)
    best = captioner.caption(photo)[0].text
    assert found["stream"] == {"good": best, "again": best, "bad": "INVALID_ARGUMENT"}
    assert found["bad_picture"]["request_id"]
    failures = {name: [found[name][key] for key in ("code", "reason", "domain")] for name in FAILURES}
    assert failures == FAILURES


FAILURES = {
    "bad_picture": ["INVALID_ARGUMENT", "CORRUPT_IMAGE", "captioner"],
    "unknown_model": ["NOT_FOUND", "UNKNOWN_MODEL", "captioner"],
}
