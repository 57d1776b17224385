"""The page's modules run by Node: arrays go in and come out as JSON, bytes as base64."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "services/browser/page"
READ = """import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0, "utf-8"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const base64 = (array) => Buffer.from(array).toString("base64");
"""


def node(module: str, names: str, code: str, given: Any) -> Any:
    """What `code` returns, with the names of one of the page's modules and `given` in its reach."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    source = f'import {{ {names} }} from "{(PAGE / module).as_uri()}";\n{READ}'
    source += f"console.log(JSON.stringify((() => {{ {code} }})()));"
    command = [program, "--input-type=module", "-e", source]
    ran = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
