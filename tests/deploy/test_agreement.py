"""What all files of deployment have to agree on, with each other, with the image and with the code."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from app.config import Environment
from tests.support.deploy_tools import Objects, kustomized, render
from tests.support.dockerfile import Dockerfile
from tests.support.processes import ROOT
from tests.support.server import Server

STOP_SECONDS = 10
"""What gunicorn's graceful_timeout is longer than the drain."""

DATA = "/data"
"""The folder of the image that is for a file of SQLite."""

VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
CHANNELS = (ROOT / "config/channels.yaml").read_text()
IMAGE = Dockerfile()


class Said(NamedTuple):
    """What one file says about how Abide is to be run."""

    environment: Mapping[str, str | None]
    """The variables that it sets, or says the place of; None for a value that is elsewhere."""
    grace: int
    """Seconds from SIGTERM to SIGKILL, less those that pass before SIGTERM."""
    migrate: str | None
    """The command that is run before a new release; None where the server migrates at its start."""
    traffic: str | None
    """The path that decides whether it gets requests; None where nothing asks."""
    port: int | None
    """The port inside, where the platform does not choose it."""


def text(name: str) -> str:
    return (ROOT / name).read_text()


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def fly() -> Said:
    file: dict[str, Any] = tomllib.loads(text("fly.toml"))
    (check,) = file["http_service"]["checks"]
    migrate = re.search(r"exec (abide migrate)", file["deploy"]["release_command"])
    assert migrate
    port = file["http_service"]["internal_port"]
    return Said(file["env"], seconds(file["kill_timeout"]), migrate[1], check["path"], port)


def compose() -> Said:
    service = yaml.safe_load(text("compose.yaml"))["services"]["abide"]
    (ports,) = service["ports"]
    grace = seconds(service["stop_grace_period"])
    return Said(service["environment"], grace, None, None, int(ports.partition(":")[2]))


def render_com(name: str) -> Said:
    (service,) = yaml.safe_load(text(name))["services"]
    environment = {one["key"]: one.get("value") for one in service["envVars"]}
    grace = service["maxShutdownDelaySeconds"]
    return Said(environment, grace, service.get("preDeployCommand"), service["healthCheckPath"], None)


def railway() -> Said:
    deploy = json.loads(text("deploy/railway.json"))["deploy"]
    page = re.findall(r"^([A-Z_]+)=(\S+)$", text("docs/deploy/railway.md"), re.MULTILINE)
    (migrate,) = deploy["preDeployCommand"]
    return Said(dict(page), deploy["drainingSeconds"], migrate, deploy["healthcheckPath"], None)


def heroku() -> Said:
    file = yaml.safe_load(text("deploy/heroku.yml"))
    (migrate,) = file["release"]["command"]
    return Said(file["setup"]["config"], 30, migrate, None, None)


def systemd() -> Said:
    unit = text("deploy/abide.service")
    (line,) = re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    environment = dict(word.split("=") for word in shlex.split(line))
    return Said(environment, int(stop), None, None, None)


def cloud_run() -> Said:
    page = text("docs/deploy/cloud-run.md")
    values, secrets = (re.findall(rf"--set-{kind} (\S+)", page)[0].split(",") for kind in ("env-vars", "secrets"))
    probe = re.search(r"--startup-probe httpGet\.path=([^,\s]+)", page)
    assert probe
    environment = {**dict(one.split("=") for one in values), **{one.partition("=")[0]: None for one in secrets}}
    return Said(environment, STOP_SECONDS, None, probe[1], None)


def pods(objects: Objects) -> Said:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,), (migration,) = pod["containers"], pod["initContainers"]
    (first,) = objects["Service"]["spec"]["ports"]
    (port,) = [one["containerPort"] for one in container["ports"] if one["name"] == first["targetPort"]]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    return Said(
        {one["name"]: one["value"] for one in container["env"]},
        pod["terminationGracePeriodSeconds"] - before,
        shlex.join(migration["args"]),
        container["readinessProbe"]["httpGet"]["path"],
        port,
    )


FILES: dict[str, tuple[str, Callable[[], Said]]] = {
    "fly.toml": ("fly.md", fly),
    "compose.yaml": ("compose.md", compose),
    "deploy/render.yaml": ("render.md", lambda: render_com("deploy/render.yaml")),
    "deploy/render-sqlite.yaml": ("render.md", lambda: render_com("deploy/render-sqlite.yaml")),
    "deploy/railway.json": ("railway.md", railway),
    "deploy/heroku.yml": ("heroku.md", heroku),
    "deploy/abide.service": ("systemd.md", systemd),
    "deploy/kubernetes/": ("kubernetes.md", lambda: pods(kustomized())),
    "deploy/helm/": ("kubernetes.md", lambda: pods(render(channels=CHANNELS))),
    "docs/deploy/cloud-run.md": ("cloud-run.md", cloud_run),
}
"""Each file, with the page of its platform."""


class Asked(dict[str, str]):
    """An environment that remembers which variables it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 — a dictionary's own
        self.names.add(name)
        return super().get(name, default)


@cache
def variables() -> set[str]:
    """Return the names of all variables that mean something to Abide or to Python."""
    asked = Asked()
    Environment.read(asked)
    return asked.names | set(re.findall(r"\$\{(\w+)", CHANNELS)) | {"PYTHONDONTWRITEBYTECODE"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_agrees_with_the_image_and_the_code(name: str, server: Server) -> None:
    """File sets variables that exist, leaves time to drain, and names the image's port and the server's commands."""
    said = FILES[name][1]()
    assert set(said.environment) <= variables()
    drain = int(said.environment["DRAIN_SECONDS"] or "")
    assert drain == 0 or drain + STOP_SECONDS < said.grace
    assert drain + STOP_SECONDS <= said.grace
    assert said.migrate in (None, "abide migrate", "migrate")
    assert said.port in (None, Environment().port)
    if said.traffic:
        assert said.traffic == "/health/ready"
        assert httpx.get(server.url + said.traffic).status_code == 200


def rows() -> Iterator[tuple[str, int, int, int | None, str]]:
    """Return the table of the page about all platforms: page, grace, drain, minutes of a connection, its age."""
    row = re.compile(
        r"^\| \[.+?\]\((\S+)\) \| (\d+)\b.*? \| (\d+) \| (?:(\d+) min.*?|\N{EN DASH}) \| (\S+) \|$", re.MULTILINE
    )
    for page, grace, drain, minutes, age in row.findall(text("docs/deploy/README.md")):
        yield page, int(grace), int(drain), int(minutes) if minutes else None, age


def test_the_table_of_platforms_says_what_the_files_say() -> None:
    """Table of all platforms has each page, with the grace period and the drain of its files."""
    table = {page: (grace, drain) for page, grace, drain, _, _ in rows()}
    pages = {path.name for path in (ROOT / "docs/deploy").glob("*.md")}
    assert set(table) == pages - {"README.md", "proxies.md"} == {page for page, _ in FILES.values()}
    for page, read in FILES.values():
        said = read()
        assert table[page] == (said.grace, int(said.environment["DRAIN_SECONDS"] or "")), page


def test_connections_end_before_their_platform_ends_them() -> None:
    """Connections end by MAX_CONNECTION_AGE where a platform would cut them, and nowhere else."""
    said = {page: read().environment.get("MAX_CONNECTION_AGE") for page, read in FILES.values()}
    for page, _, _, minutes, age in rows():
        assert said[page] == (age if minutes else None), page
        assert not minutes or int(age) < minutes * 60, page


@pytest.mark.parametrize("kind", ["kustomize", "chart"])
def test_pods_run_as_the_image_does(kind: str) -> None:
    """Pods of both kinds run the image of this version as its user, without privileges, and see what they mount."""
    objects = kustomized() if kind == "kustomize" else render(channels=CHANNELS)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,), (migration,) = pod["containers"], pod["initContainers"]
    assert container["image"] == migration["image"] == f"abide:{VERSION}"
    user = pod["securityContext"]
    assert IMAGE.arguments("USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]
    assert container["securityContext"] == migration["securityContext"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    variables = {one["name"]: one["value"] for one in container["env"]}
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports["metrics"] == int(variables["METRICS_PORT"])
    probes = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness")}
    assert set(probes.values()) == {"/health/live"}
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert variables["CHANNELS_CONFIG"] == f"{mounts['config']}/channels.yaml"
    assert {one["name"] for one in pod["volumes"]} == set(mounts)
    assert objects["ConfigMap"]["data"] == {"channels.yaml": CHANNELS}
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels


def test_the_chart_gives_a_longer_drain_its_time() -> None:
    """Chart's grace period follows its drain."""
    said = pods(render(channels=CHANNELS, drainSeconds=100))
    assert said.environment["DRAIN_SECONDS"] == "100"
    assert said.grace > 100 + STOP_SECONDS


def test_the_chart_and_the_manifests_differ_in_names_only() -> None:
    """Chart makes the pods that the manifests have."""
    assert (
        render(channels=CHANNELS)["Deployment"]["spec"]["template"]["spec"]
        == kustomized()["Deployment"]["spec"]["template"]["spec"]
    )


def test_the_compose_service_is_as_strict_as_the_image_allows() -> None:
    """Service of the compose file runs as strictly as the image allows, after a database that is healthy."""
    project = yaml.safe_load(text("compose.yaml"))
    service = project["services"]["abide"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    (folder,) = IMAGE.arguments("WORKDIR")
    assert service["volumes"] == [f"./config:{folder}/config:ro", f"files:{DATA}"]
    assert service["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert project["services"]["db"]["healthcheck"]


def test_a_file_of_sqlite_is_on_a_disk_that_stays() -> None:
    """File of SQLite is in the folder that the image has for it, where the platform mounts a disk, on one machine."""
    (folder,) = [words for words in IMAGE.arguments("RUN") if DATA in words]
    assert folder == f"mkdir -m 1777 {DATA}"
    (service,) = yaml.safe_load(text("deploy/render-sqlite.yaml"))["services"]
    urls = [one["value"] for one in service["envVars"] if one["key"] == "DATABASE_URL"]
    assert service["disk"]["mountPath"] == DATA
    assert "numInstances" not in service
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text("docs/deploy/fly.md"), re.MULTILINE | re.DOTALL)
    fly_toml = tomllib.loads(block)
    assert fly_toml["mounts"]["destination"] == DATA
    urls.append(fly_toml["env"]["DATABASE_URL"])
    urls += re.findall(r"^DATABASE_URL=(sqlite\S+)$", text("docs/deploy/railway.md"), re.MULTILINE)
    urls += re.findall(r"`DATABASE_URL=(sqlite\S+)`", text("docs/deploy/compose.md"))
    assert urls == [f"sqlite:///{DATA}/abide.db"] * 4
    unit = text("deploy/abide.service")
    (state,) = re.findall(r"^StateDirectory=(\w+)$", unit, re.MULTILINE)
    assert f"sqlite:////var/lib/{state}/abide.db" in unit


def test_versions_are_those_of_the_project() -> None:
    """Chart has the version of the project."""
    chart = yaml.safe_load(text("deploy/helm/Chart.yaml"))
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_secrets_are_examples() -> None:
    """Secret that is shipped is an example with the variables of channels.yaml, and is applied by nobody."""
    secret = yaml.safe_load(text("deploy/kubernetes/secret.example.yaml"))
    assert set(secret["stringData"]) == set(re.findall(r"\$\{(\w+)", CHANNELS))
    assert "Secret" not in kustomized()
    assert "Secret" not in render()


def test_the_page_has_every_value_of_the_chart() -> None:
    """Page about Kubernetes has each value of the chart, and no other."""
    values = yaml.safe_load(text("deploy/helm/values.yaml"))
    nested = {"image": values["image"], "service": values["service"]}
    names = {*(f"{key}.{name}" for key, inner in nested.items() for name in inner), *(set(values) - set(nested))}
    rows = re.findall(r"^\| (`[a-zA-Z.`, ]+) \|", text("docs/deploy/kubernetes.md"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} == names
