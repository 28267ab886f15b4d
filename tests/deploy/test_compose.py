"""docker-compose.yml and the Dockerfile: valid, closed to the network, no secret inside, everything pinned.

No Docker engine is asked: tests/compose does that.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
# Stands for `sparring` and, in the tests' own folder, notes its words; a SIGTERM ends it as it ends a run.
RUN = """#!/bin/bash
trap 'kill $child; echo stopped >>{folder}/said; exit 130' TERM
echo "$@" >>{folder}/said
[ -e {folder}/finished ] && exit 3
sleep 60 & child=$!
wait
"""
FILES = ("docker-compose.yml", "deploy/compose/trainer-gpu.yml")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


@pytest.mark.parametrize("name", FILES)
def test_the_compose_files_meet_the_specifications_schema(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / name)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ports_are_open_on_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_files_that_are_mounted_exist_where_prometheus_and_grafana_look(compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for service in compose["services"].values() for mount in service.get("volumes", [])]
    assert all((ROOT / source).exists() for source, *_ in mounts if source.startswith("./"))
    scraped = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    shared = {target for source, target, *_ in mounts if source in ("targets", "ray")}
    assert shared == {"/var/lib/sparring/targets", "/tmp/ray"}
    assert all(folder in scraped for folder in shared)
    provisioned = ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "sparring.yml"
    assert yaml.safe_load(provisioned.read_text())["providers"][0]["options"]["path"] in {mount[1] for mount in mounts}


def test_passwords_come_from_files_that_git_and_the_image_do_not_see(compose: dict[str, Any]) -> None:
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    for service in compose["services"].values():
        for word in str(service).split():
            assert "requirepass" not in word or "/run/secrets" in str(service["command"])
        environment = service.get("environment", {})
        assert not [name for name in environment if "PASSWORD" in name and not name.endswith("__FILE")]


def test_redis_never_evicts_or_writes_to_disk(compose: dict[str, Any]) -> None:
    command = compose["services"]["redis"]["command"][-1]
    assert "--maxmemory-policy noeviction" in command and "--maxmemory 2gb" in command
    assert '--save "" --appendonly no' in command
    assert "--port 6380" in command
    assert compose["services"]["redis"]["healthcheck"]["retries"] > 1


def test_images_are_pinned_and_processes_are_stopped_in_good_order(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"])
    for name in ("head", "worker", "worker-gpu"):
        assert compose["services"][name]["stop_signal"] == "SIGTERM"
        assert compose["services"][name]["shm_size"] == "2gb"
    assert compose["services"]["worker-gpu"]["profiles"] == ["gpu"]
    assert "deploy" not in compose["services"]["worker"]


def test_rays_objects_fit_into_shared_memory(compose: dict[str, Any]) -> None:
    for name in ("head", "worker", "worker-gpu"):
        service = compose["services"][name]
        (size,) = re.findall(r"ray start .*--object-store-memory=(\d+)", service["command"][-1])
        assert 1e9 <= int(size) < int(service["shm_size"].removesuffix("gb")) * 2**30


def test_the_image_is_built_in_stages_from_the_constraints_and_runs_without_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert len([line for line in lines if re.fullmatch(r"FROM python:3\.11\.\d+-slim-bookworm( AS build)?", line)]) == 2
    assert any("grep '^torch==' constraints.txt" in line for line in lines)
    assert "STOPSIGNAL SIGTERM" in lines
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed in this environment")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize(
    ("resume", "words"), [("", "train recipe.toml --run.root /runs"), ("/runs/one", "resume /runs/one --workers 2")]
)
def test_the_heads_command_passes_signals_on_and_ends_with_the_runs_code(
    compose: dict[str, Any], tmp_path: Path, resume: str, words: str
) -> None:
    head, said, targets = _head(compose, tmp_path), tmp_path / "said", tmp_path / "targets.json"
    environment = {"SPARRING_RECIPE": "recipe.toml", "SPARRING_WORKERS": "2", "SPARRING_RESUME": resume}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    targets.touch()
    process = subprocess.Popen(head, env=environment)
    wait_for("the run", lambda: said.exists() and said.read_text(), 30)
    assert said.read_text().startswith(words)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert said.read_text().endswith("stopped\n")
    assert not targets.exists()

    targets.touch()
    (tmp_path / "finished").touch()
    assert subprocess.run(head, env=environment, timeout=30).returncode == 3
    assert not targets.exists()


def _head(compose: dict[str, Any], folder: Path) -> list[str]:
    """The head's command with stand-ins for `ray` and `sparring`, and with Ray's list of targets in `folder`."""
    for name, script in (("ray", "#!/bin/sh\n"), ("sparring", RUN.format(folder=folder))):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    command = [word.replace("$$", "$") for word in compose["services"]["head"]["command"]]
    listed = "/tmp/ray/prom_metrics_service_discovery.json"
    assert command[-1].count(listed) == 1
    return [*command[:-1], command[-1].replace(listed, str(folder / "targets.json"))]


def test_rays_list_of_targets_is_read_again_by_the_clock() -> None:
    """It is a link into a folder of Ray's session, where Prometheus sees no change."""
    read = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (ray,) = [job for job in read if job["job_name"] == "ray"]
    assert int(ray["file_sd_configs"][0]["refresh_interval"].removesuffix("s")) <= 30


@pytest.mark.parametrize("name", ["head", "worker", "worker-gpu"])
def test_ray_asks_for_a_token_that_is_a_secret(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert "ray_token" in service["secrets"] and "ray_token" in compose["secrets"]
