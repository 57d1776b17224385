"""onnxruntime-web from npm, installed once for each package-lock.json."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

FILES = ("package.json", "package-lock.json", ".npmrc")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""The build for the CPU alone, its glue inside; those with WebGPU and WebNN are nearly twice as large."""
SECONDS = 300


def runtime_files(folder: Path) -> tuple[Path, ...]:
    """What the page needs of onnxruntime-web; FileNotFoundError without npm, SubprocessError where it fails."""
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in FILES)).hexdigest()[:16]
    installed = folder / digest
    files = tuple(installed / "node_modules/onnxruntime-web/dist" / name for name in RUNTIME)
    if not all(file.is_file() for file in files):
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not installed: onnxruntime-web comes by it")
        installed.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(here / name, installed)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1", "--fetch-timeout", "60000"]
        ran = subprocess.run([npm, "ci", *quiet], cwd=installed, capture_output=True, text=True, timeout=SECONDS)
        if ran.returncode:
            raise subprocess.SubprocessError(f"npm could not install onnxruntime-web: {ran.stderr.strip()[-500:]}")
    return files
