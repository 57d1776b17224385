"""The image, docker-compose.yml and what they mount, against the server's own settings; no engine is needed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

import services.__main__ as command
from services import healthcheck
from services.metrics import Metrics
from services.settings import EngineSettings, ServerSettings
from tests.running_server import running

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "services/deploy"
COMPOSE_FILES = [ROOT / "docker-compose.yml", DEPLOY / "closed.yml", DEPLOY / "gpu.yml"]
COMPOSE, CLOSED, GPU = (yaml.safe_load(path.read_text()) for path in COMPOSE_FILES)
SERVICES = COMPOSE["services"]
REPLICAS = {"first", "second"}
PROXY = SERVICES["proxy"]["environment"]
HAPROXY = (DEPLOY / "haproxy.cfg").read_text()
DASHBOARDS = [json.loads(path.read_text()) for path in (DEPLOY / "grafana/dashboards").glob("*.json")]


def program(name: str) -> str:
    """Its path; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def checked(*words: str | Path) -> None:
    """Run a program that says what is wrong."""
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# The image


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name of each stage -> what it begins from, and its instructions."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = (base, [])
        else:
            found[stage][1].append((name, rest.strip()))
    return found


STAGES = stages()
TARGETS = ("cpu", "gpu")


def instructions(target: str, name: str) -> list[str]:
    """What an image is made with, from its base on."""
    base, own = STAGES[target]
    before = instructions(base, name) if base in STAGES else []
    return before + [text for instruction, text in own if instruction == name]


def executed(target: str, name: str) -> list[str]:
    """The words of the last ENTRYPOINT, CMD or HEALTHCHECK; fails unless they are in the form without a shell."""
    text = instructions(target, name)[-1]
    words: list[str] = json.loads(text[text.index("[") :])
    return words


def parsed(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[list[Path], EngineSettings, ServerSettings]:
    """What `python -m services` would serve where the variable names a bundle."""
    found: list[Any] = []

    async def serve(*given: Any) -> None:
        found.extend(given[:3])

    monkeypatch.setattr(command, "_serve", serve)
    monkeypatch.setenv("CAPTIONER_BUNDLE", "/bundles/mine")
    command.main([*arguments, "--log", "text"])
    return found[0], found[1], found[2]


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_s_command_is_one_that_the_server_takes(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    python, *words = executed(target, "ENTRYPOINT")
    assert (python, words[:2]) == ("python", ["-m", "services"])
    assert not instructions(target, "CMD")
    bundles, engine, settings = parsed(monkeypatch, words[2:])
    assert bundles == [Path("/bundles/mine")]
    assert settings.host == "0.0.0.0"
    assert str(settings.port) in instructions(target, "EXPOSE")[-1].split()
    assert (engine.provider, engine.require_gpu) == (("cuda", True) if target == "gpu" else ("cpu", False))


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_is_not_root_s_and_its_health_check_needs_no_shell(target: str) -> None:
    user = instructions(target, "USER")[-1]
    assert all(int(number) > 0 for number in user.split(":"))
    python, flag, module, *arguments = executed(target, "HEALTHCHECK")
    assert (python, flag, arguments) == ("python", "-m", [])
    assert importlib.util.find_spec(module) is not None
    assert instructions(target, "STOPSIGNAL") == ["SIGTERM"]


def test_what_is_copied_exists_and_is_let_through() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    copies = [text.split() for stage in STAGES for name, text in STAGES[stage][1] if name == "COPY"]
    assert {name for words in copies if "--from" not in words[0] for name in words[:-1]} == kept
    assert all((ROOT / name).exists() for name in kept)
    assert {words[0].removeprefix("--from=") for words in copies if "--from" in words[0]} <= set(STAGES)
    left_out = [rule for rule in rules if rule[0] != "!" and rule != "*"]
    needed = [path.relative_to(ROOT) for path in (ROOT / "services/web").iterdir()]
    assert not [path for path in needed for rule in left_out if fnmatch(str(path), rule)]


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_has_the_page_and_no_torch(target: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [line] = [text for name, text in STAGES[f"{target}-builder"][1] if name == "RUN"]
    named = set(re.findall(r"--extra (\w+)", line))
    assert {target, "web"} <= named <= set(extras)
    for wanted in [requirement for name in named for requirement in extras[name]]:
        named |= set(re.findall(r"captioner\[(\w+)\]", wanted))
    assert {"serve"} <= named
    assert not [wanted for name in named for wanted in extras[name] if wanted.startswith("torch")]
    assert "-c constraints.txt" in line


def test_a_bundle_s_files_can_all_be_read_by_the_image_s_user(tiny_bundle: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in tiny_bundle.iterdir()}
    assert set(modes.values()) == {modes["manifest.json"]}


def test_hadolint_has_nothing_to_say() -> None:
    checked(program("hadolint"), "Dockerfile")


# The health check


def answer(port: int, *arguments: str | Path) -> Any:
    """Why the health check fails; None if it does not."""
    try:
        healthcheck.main(["--port", str(port), *map(str, arguments)])
    except SystemExit as end:
        return end.code
    return None


def test_the_health_check_tells_serving_from_loading_and_from_nothing(tiny_bundle: Path) -> None:
    with running(tiny_bundle, warm=False) as server:
        port = int(server.target.rsplit(":", 1)[1])
        assert answer(port) == "NOT_SERVING"
        server.run(server.server.warm_up())
        assert answer(port) is None
    assert answer(port).startswith("no answer")


def test_the_health_check_of_a_server_with_tls(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from tests.test_security import Authority

    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("server")
    own, own_key = authority.issue("client")
    tls: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key, "client_ca": authority.path}
    with running(tiny_bundle, **tls) as server:
        port = int(server.target.rsplit(":", 1)[1])
        assert answer(port, "--ca", authority.path, "--certificate", own, "--key", own_key) is None
        assert answer(port, "--ca", certificate, "--certificate", own, "--key", own_key) is None
        assert answer(port, "--ca", authority.path).startswith("no answer")
        assert answer(port).startswith("no answer")
        assert answer(port, "--ca", tmp_path / "none").startswith("no answer")


# Compose


def words_of(compose: Any, name: str) -> list[str]:
    """A replica's command, with the variables' defaults."""
    words: list[str] = compose["services"][name]["command"]
    return words


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_compose_files_keep_to_the_specification() -> None:
    checked(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *COMPOSE_FILES)


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_the_replicas_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    replica = SERVICES[name]
    entry = executed(replica["build"]["target"], "ENTRYPOINT")[3:]
    chosen = replica["environment"]["CAPTIONER_BUNDLE"]
    assert chosen == "${BUNDLE:+/bundles/${BUNDLE}}"  # nothing, which is the box, or a folder of ./bundles
    bundles, engine, settings = parsed(monkeypatch, entry + words_of(COMPOSE, name))
    assert bundles == [Path("/bundles/mine")]
    assert replica["volumes"] == ["./bundles:/bundles:ro"]
    assert engine.threads == float(replica["deploy"]["resources"]["limits"]["cpus"])
    assert seconds(replica["stop_grace_period"]) > settings.notice_seconds + settings.grace_seconds
    replica_key, web_key = f"{name.upper()}_REPLICA", f"{name.upper()}_WEB"
    assert (PROXY[replica_key], PROXY[web_key]) == (f"{name}:{settings.port}", f"{name}:{settings.web_port}")
    exposed = instructions("cpu", "EXPOSE")[-1].split()
    assert exposed == [str(port) for port in (settings.port, settings.web_port, settings.metrics_port)]


def test_the_overrides_only_add(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sorted(REPLICAS):
        assert words_of(CLOSED, name) == [*words_of(COMPOSE, name), "--tokens=/run/secrets/tokens"]
        assert "tokens" in CLOSED["services"][name]["secrets"]
        assert GPU["services"][name]["build"]["target"] in TARGETS
        entry = executed("gpu", "ENTRYPOINT")[3:]
        _, engine, _ = parsed(monkeypatch, entry + words_of(COMPOSE, name))
        assert engine.require_gpu
    assert set(CLOSED["services"]) | set(GPU["services"]) <= set(SERVICES)


def test_everything_is_published_on_loopback_and_nothing_twice() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    published = [port.split(":")[1] for port in ports]
    assert sorted(published) == ["3000", "50051", "8080", "9090"]
    assert not REPLICAS & {name for name, service in SERVICES.items() if "ports" in service}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    if "build" not in service:
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"])
        assert service["healthcheck"]["test"][0] == "CMD"
    sources = [volume.split(":")[0] for volume in service.get("volumes", ())]
    assert all((ROOT / source).exists() for source in sources if source.startswith("./services"))


# The proxy


def test_the_proxy_gets_every_address_that_it_reads() -> None:
    read = set(re.findall(r"\$\{(\w+)", HAPROXY))
    optional = {"WEB_BIND"}
    assert read == set(PROXY) | optional
    assert set(CLOSED["services"]["proxy"]["environment"]) <= read
    published = {port.split(":")[2] for port in SERVICES["proxy"]["ports"]}
    assert published == {PROXY[name].removeprefix(":") for name in ("GRPC_ADDRESS", "WEB_ADDRESS")}
    assert f"127.0.0.1{PROXY['STATUS_ADDRESS']}/healthz" in SERVICES["proxy"]["healthcheck"]["test"][-1]


def test_the_proxy_sees_a_drain_in_time_and_waits_for_it() -> None:
    def of(pattern: str) -> int:
        [value] = re.findall(rf"{pattern} (\d+)", HAPROXY)
        return int(value)

    # A check just before the drain began, then as many that fail as it takes.
    slowest_ms = of(r"check inter") + of("fastinter") * (of("fall") - 1)
    assert slowest_ms < 1000 * ServerSettings.notice_seconds
    drain = ServerSettings.notice_seconds + ServerSettings.grace_seconds
    assert drain < of("hard-stop-after") < seconds(SERVICES["proxy"]["stop_grace_period"])
    assert SERVICES["proxy"]["stop_signal"] == "SIGUSR1"


# Prometheus and Grafana


def test_prometheus_reads_every_replica_and_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: {target for static in job["static_configs"] for target in static["targets"]}
        for job in configuration["scrape_configs"]
    }
    _, _, settings = parsed(monkeypatch, words_of(COMPOSE, "first"))
    assert targets["captioner"] == {f"{name}:{settings.metrics_port}" for name in REPLICAS}
    assert targets["proxy"] == {f"proxy{PROXY['STATUS_ADDRESS']}"}


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    port = SERVICES["prometheus"]["ports"][0].split(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    [provider] = yaml.safe_load((provisioning / "dashboards/captioner.yml").read_text())["providers"]
    mounted = dict(volume.removesuffix(":ro").split(":") for volume in SERVICES["grafana"]["volumes"])
    assert mounted["./services/deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./services/deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEPLOY / "grafana/dashboards" / home.name).exists()
    used = {panel["datasource"]["uid"] for dashboard in DASHBOARDS for panel in dashboard["panels"]}
    assert used == {source["uid"]}


def queries() -> list[str]:
    """Every PromQL expression of the dashboards."""
    panels = [panel for dashboard in DASHBOARDS for panel in dashboard["panels"]]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def exported() -> dict[str, set[str]]:
    """Name of each sample that a server exports -> its labels; those that Prometheus adds, too."""
    found = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "describe"):
            continue
        [described] = metric.describe()
        name, labels = described.name, {*metric._labelnames, "job", "instance"}
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_sum", "_count", "_bucket"]}[described.type]
        found |= {name + ending: labels | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    return found


def test_every_query_asks_for_what_is_exported() -> None:
    known = exported()
    others = {"process_resident_memory_bytes": {"job", "instance"}, "process_cpu_seconds_total": {"job", "instance"}}
    others["haproxy_server_status"] = {"proxy", "server", "state", "job", "instance"}
    asked = set()
    for query in queries():
        names = set(re.findall(r"\b(?:captioner|process|haproxy)_\w+", query))
        assert names
        assert names <= set(known | others), query
        labels = set(re.findall(r"(\w+)=~?\"", query))
        for group in re.findall(r"by \(([^)]*)\)", query):
            labels |= set(group.split(", "))
        for name in names:
            assert labels <= (known | others)[name], query
        asked |= names
    histogram = re.compile("_(sum|count|bucket)$")
    shown = {histogram.sub("", name) for name in asked}
    assert {histogram.sub("", name) for name in known} - shown <= {"captioner_tasks"}


def test_the_line_of_admitted_images_is_the_server_s_limit() -> None:
    [panel] = [panel for panel in DASHBOARDS[0]["panels"] if "admitted" in panel["targets"][0]["expr"]]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == EngineSettings.max_queue
    assert not [word for word in words_of(COMPOSE, "first") if word.startswith("--max-queue")]


def test_promtool_understands_the_configuration_and_every_query(tmp_path: Path) -> None:
    promtool = program("promtool")
    checked(promtool, "check", "config", DEPLOY / "prometheus.yml")
    filled = [query.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in queries()]
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked(promtool, "check", "rules", path)
