"""docker-compose.yml, Dockerfile and .dockerignore agree with the checkout. No Docker is needed, and none is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def compose() -> Any:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML isn't installed")
    return yaml.safe_load(COMPOSE)


def test_every_mounted_file_exists() -> None:
    mounted = re.findall(r"^ +- (\./[^:\s]+):", COMPOSE, re.MULTILINE)
    assert "./schema/mysql/qudo.sql" in mounted
    for name in mounted:
        assert (ROOT / name).is_file(), name


def test_every_file_that_the_image_is_built_from_exists_and_reaches_the_build() -> None:
    copied = [name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "migrate" in {Path(name).name for name in copied}
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{Path(name).name}" in ignored, name


def test_services_wait_for_servers_that_are_fit_to_be_used(compose: Any) -> None:
    services = compose["services"]
    assert set(services["toolkit"]["depends_on"]) == {"mysql", "redis"}
    for name, wait in services["toolkit"]["depends_on"].items():
        assert wait == {"condition": "service_healthy"}
        assert services[name]["healthcheck"]["test"]


def test_redis_keeps_jobs(compose: Any) -> None:
    command = compose["services"]["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "redis-data:/data" in compose["services"]["redis"]["volumes"]


def test_named_volumes_are_declared(compose: Any) -> None:
    volumes = [volume for service in compose["services"].values() for volume in service["volumes"]]
    named = {volume.split(":")[0] for volume in volumes if re.match(r"[a-z]", volume)}
    assert named == set(compose["volumes"]) == {"mysql-data", "redis-data"}


def test_every_password_comes_from_the_environment(compose: Any) -> None:
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "AUTH" in name:
                assert re.fullmatch(r"\$\{[A-Z_]+_PASSWORD:-[a-z-]+\}", value), name


def test_servers_are_reachable_from_this_machine_only(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
