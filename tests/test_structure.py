"""The rooms: who imports whom, and that running a model needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("captioner", "captioner.model", "services", "training", "eval")
ALLOWED = {
    "captioner": set(),
    "captioner.model": {"captioner"},
    "services": {"captioner"},
    "training": {"captioner", "captioner.model", "eval"},
    "eval": {"captioner"},
}


def room(module: str) -> str | None:
    """The most particular room that a module lies in."""
    found = [name for name in ROOMS if module == name or module.startswith(f"{name}.")]
    return max(found, key=len, default=None)


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_down(name: str) -> None:
    folder = ROOT / name.replace(".", "/")
    for path in folder.rglob("*.py"):
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        wrong = {m for m in imports(path) if (r := room(m)) and r != here and r not in ALLOWED[here]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    "module", ["captioner", "captioner.cli", "captioner.client", "captioner.v1.captioner_pb2_grpc"]
)
def test_no_torch_at_run_time(module: str) -> None:
    code = f"import sys, {module}; print(sorted(m for m in ('torch', 'pycocotools', 'tqdm') if m in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_grpc_is_only_loaded_by_those_who_serve_or_call() -> None:
    code = "import sys, captioner; print('grpc' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"


def test_ci_runs_the_readme_s_test_command() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (command,) = [block for block in blocks if "pytest" in block]
    assert command.strip() in (ROOT / ".ci/run").read_text()


def test_no_grab_bags() -> None:
    names = {
        path.stem for folder in ("captioner", "services", "training", "eval") for path in (ROOT / folder).rglob("*.py")
    }
    assert not names & {"utils", "helpers", "common", "misc"}
