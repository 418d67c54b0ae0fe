"""Each file of deploy/ is judged by the program that it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from tests.support.deploy_tools import judge, kustomized, lint_chart, notes, render, run, systemd_verify
from tests.support.processes import ROOT

VERSIONS = ("1.30", "1.37")
"""The oldest and the newest Kubernetes that the manifests are held against."""

PLATFORMS = yaml.safe_load((ROOT / "tests/deploy/platforms.yaml").read_text())
CHANNELS = (ROOT / "config/channels.yaml").read_text()


def test_docker_compose_reads_the_compose_file() -> None:
    """Docker's own compose takes compose.yaml, and says what is missing without the variables of .env."""
    secrets = {"POSTGRES_PASSWORD": "hex", "PUSH_KEYS": "image-key-1"}
    assert run("docker-compose", "config", "--quiet", env=secrets).stderr == ""
    for name in secrets:
        others = {key: value for key, value in secrets.items() if key != name}
        refused = run("docker-compose", "config", "--quiet", env=others)
        assert refused.returncode != 0
        assert f"{name} is missing a value: set it in .env" in refused.stderr


@pytest.mark.parametrize(("profile", "url"), [("redis", "redis-stream://redis"), ("kafka", "kafka://kafka/abide.")])
def test_a_profile_of_the_compose_file_adds_an_engine(profile: str, url: str) -> None:
    """Profile adds the server of its engine, whose URL is one line of .env; without it there is Postgres alone."""
    env = {"POSTGRES_PASSWORD": "hex", "PUSH_KEYS": "image-key-1"}
    usual = json.loads(run("docker-compose", "config", "--format=json", env=env).stdout)
    assert set(usual["services"]) == {"abide", "db"}
    assert usual["services"]["abide"]["environment"]["DATABASE_URL"] == "postgres://postgres:hex@db/postgres"
    options = (f"--profile={profile}", "config", "--format=json")
    project = json.loads(run("docker-compose", *options, env={**env, "DATABASE_URL": url}).stdout)
    assert set(project["services"]) == {"abide", "db", profile}
    assert project["services"]["abide"]["environment"]["DATABASE_URL"] == url
    (volume,) = project["services"][profile]["volumes"]
    assert volume["source"] in project["volumes"]
    assert f"`DATABASE_URL={url}`" in (ROOT / "docs/deploy/compose.md").read_text()


def test_kubernetes_knows_every_field_of_the_manifests() -> None:
    """Kubernetes' schemas know every field of what kustomize and the chart make, and not one that is made up."""
    chart = render(channels=CHANNELS, env={"WEB_CONCURRENCY": "2"})
    assert judge([*kustomized().values(), *chart.values()], *VERSIONS) == ""
    service = kustomized()["Service"]
    service["spec"]["port"] = 80
    assert "'port' was unexpected" in judge([service], VERSIONS[-1])


def test_helm_lints_the_chart() -> None:
    """Helm finds nothing wrong with the chart; an icon it would like."""
    found = lint_chart()
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_the_chart_has_a_config_map_only_of_channels_that_are_given() -> None:
    """Chart serves the channels of the image, or those that it is given, text for text."""
    assert "ConfigMap" not in render()
    objects = render(channels=CHANNELS)
    assert objects["ConfigMap"]["data"] == {"channels.yaml": CHANNELS}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"replicaCount": 3}, "replicaCount"),
        ({"drainSeconds": "15"}, "/drainSeconds"),
        ({"env": {"DRAIN_SECONDS": "60"}}, "DRAIN_SECONDS"),
        ({"env": {"WEB_CONCURRENCY": 2}}, "/env/WEB_CONCURRENCY"),
    ],
)
def test_the_chart_refuses_values_it_would_not_heed(values: dict[str, object], place: str) -> None:
    """Chart refuses a value that it does not know, or that would mean something else."""
    with pytest.raises(ValueError, match=place):
        render(**values)


def test_the_chart_says_where_abide_is() -> None:
    """Chart's notes have the address inside the cluster."""
    assert "http://abide.prod:80/" in notes()


def test_actionlint_reads_the_workflow() -> None:
    """GitHub's workflow that publishes the image is one that actionlint finds nothing in."""
    done = run("actionlint", ".github/workflows/image.yml")
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_verifies_the_unit(tmp_path: Path) -> None:
    """Unit is one that systemd's own check has no warning about."""
    done = systemd_verify(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platforms_reference_knows_every_key(name: str) -> None:
    """File of a platform without a judge of its own has only keys and values that the platform's reference knows."""
    file = yaml.safe_load((ROOT / name).read_text())  # JSON is YAML
    assert [error.message for error in jsonschema_rs.iter_errors(PLATFORMS[name], file)] == []
