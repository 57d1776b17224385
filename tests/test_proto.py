"""The stubs are what the proto says, are no newer than the packages promised, and load without torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from captioner.v1 import captioner_pb2, captioner_pb2_grpc

ROOT = Path(__file__).parents[1]
STUBS = ("captioner_pb2.py", "captioner_pb2.pyi", "captioner_pb2_grpc.py")


def generate(folder: Path, *flags: str) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *flags, "captioner/v1/captioner.proto"]
    subprocess.run([flag.replace("OUT", str(folder)) for flag in command], cwd=ROOT, check=True)


def without_json_names(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """protoc spells out the JSON names that the stubs leave to be derived."""
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return file


def test_stubs_hold_the_descriptors_of_the_proto(tmp_path: Path) -> None:
    generate(tmp_path, "--descriptor_set_out=OUT/proto.bin")
    generated = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "proto.bin").read_bytes())
    committed = descriptor_pb2.FileDescriptorProto()
    captioner_pb2.DESCRIPTOR.CopyToProto(committed)
    assert without_json_names(committed) == without_json_names(generated.file[0])


def test_stubs_are_what_their_generator_writes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    if version("grpcio-tools") != captioner_pb2_grpc.GRPC_GENERATED_VERSION:
        pytest.skip(f"the stubs come from grpcio-tools {captioner_pb2_grpc.GRPC_GENERATED_VERSION}")
    generate(tmp_path, "--python_out=OUT", "--pyi_out=OUT", "--grpc_python_out=OUT")
    for name in STUBS:
        assert (ROOT / "captioner/v1" / name).read_text() == (tmp_path / "captioner/v1" / name).read_text(), name


def test_stubs_have_every_method_of_the_service() -> None:
    [service] = captioner_pb2.DESCRIPTOR.services_by_name.values()
    text = (ROOT / "captioner/v1/captioner_pb2_grpc.py").read_text()
    assert set(re.findall(r"'/captioner\.v1\.CaptionService/(\w+)'", text)) == {m.name for m in service.methods}


def test_stubs_need_nothing_newer_than_promised() -> None:
    """A stub refuses a grpcio or protobuf older than its generator."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = dict(one.split(">=") for one in project["optional-dependencies"]["serve"])
    text = (ROOT / "captioner/v1/captioner_pb2.py").read_text()
    protobuf = re.search(r"^# Protobuf Python Version: (\S+)$", text, re.MULTILINE)
    assert protobuf
    for needed, package in ((protobuf[1], "protobuf"), (captioner_pb2_grpc.GRPC_GENERATED_VERSION, "grpcio")):
        assert numbers(needed) <= numbers(promised[package]), f"{package}>={promised[package]}, stubs need {needed}"


def numbers(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def test_stubs_and_client_load_without_torch() -> None:
    code = (
        "import sys, captioner.v1.captioner_pb2, captioner.v1.captioner_pb2_grpc, captioner.client;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_proto_passes_the_linter() -> None:
    """Which also asks for a comment on everything."""
    buf = shutil.which("buf") or shutil.which("buf", path=Path(sys.executable).parent)
    if buf is None:
        pytest.skip("buf is not installed")
    done = subprocess.run([buf, "lint", "proto"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
