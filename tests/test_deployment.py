"""docker-compose.yml and the Dockerfile against the server's own settings; no engine is needed."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from services.server import ServerSettings

ROOT = Path(__file__).resolve().parents[1]
SERVICE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["captioner"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_compose_builds_a_stage_that_exists() -> None:
    assert SERVICE["build"]["target"] in re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, flags=re.M)


def test_compose_publishes_the_server_s_port_on_loopback() -> None:
    assert SERVICE["ports"] == [f"127.0.0.1:{ServerSettings.port}:{ServerSettings.port}"]
    assert f"EXPOSE {ServerSettings.port}" in DOCKERFILE


def test_compose_waits_longer_than_the_server_drains() -> None:
    assert int(SERVICE["stop_grace_period"].rstrip("s")) > ServerSettings.notice_seconds + ServerSettings.grace_seconds


def test_image_holds_what_it_copies_and_does_not_run_as_root() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.M) for name in line.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    for stage in DOCKERFILE.split("FROM ")[2:]:
        assert "\nUSER captioner\n" in stage
