"""The cluster recipes, as far as they can be checked without the clusters."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from rts_search.cli.app import app
from rts_search.spec.reading import load_spec

ROOT = Path(__file__).parents[2]
DEPLOY, DOCS = ROOT / "deploy", ROOT / "docs" / "cluster"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TEXTS = sorted(path for path in [*DEPLOY.iterdir(), *DOCS.iterdir()] if path.is_file())
LAUNCHERS = ["aws", "gcp", "onprem"]
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
KUBERNETES = "1.34"


def launcher(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / f"{name}.yaml").read_text("utf-8")))


def ray_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with Ray's defaults. Raises what `ray up` would."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return dict(prepared)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_the_launcher_files(name: str) -> None:
    prepared = ray_accepts(launcher(name))
    types = prepared["available_node_types"]
    assert all(
        command.startswith("bash ~/rts-setup/setup-node.sh")
        for key in ("head_setup_commands", "worker_setup_commands")
        for command in prepared[key]
    )
    assert prepared["head_setup_commands"]
    assert prepared["worker_setup_commands"]
    if name == "onprem":
        assert prepared["max_workers"] == len(prepared["provider"]["worker_ips"])
    else:
        assert types["head"]["resources"]["CPU"] == 0
        assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"]


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("change", [{"max_worker": 4}, {"idle_timeout_minutes": "5"}])
def test_ray_refuses_a_launcher_file_with_a_mistake(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        ray_accepts(launcher(name) | change)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_files_that_a_launcher_mounts_exist_and_are_used(name: str) -> None:
    mounts = launcher(name)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert {Path(remote).name for remote in mounts} == {
        "pyproject.toml", "constraints.txt", "setup-node.sh"
    }  # fmt: skip
    for remote, local in mounts.items():
        assert (ROOT / local).is_file()
        assert Path(remote).name == Path(local).name


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launched_node_asks_for_the_token(name: str) -> None:
    config = launcher(name)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [c for c in config[key] if "ray start" in c]
        assert "RAY_AUTH_MODE=token ray start" in start
    exposed = "--dashboard-host=0.0.0.0" in " ".join(config["head_start_ray_commands"])
    assert exposed == (name == "onprem")  # elsewhere through ssh only


def test_aws_accepts_the_nodes() -> None:
    """botocore's own check of what Ray's provider sends to EC2."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    request = model.operation_model("RunInstances").input_shape
    for name, node in launcher("aws")["available_node_types"].items():
        sent = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(sent, request)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
    report = ParamValidator().validate(sent | {"InstanceMarket": "spot"}, request)
    assert report.has_errors()


def test_rays_aws_provider_launches_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own bootstrap and provider, against a simulated EC2."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts a key pair there
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    asked = launcher("aws")
    region = asked["provider"]["region"]
    with mock_aws():
        for node in asked["available_node_types"].values():
            profile = node["node_config"]["IamInstanceProfile"]["Name"]
            boto3.client("iam").create_instance_profile(InstanceProfileName=profile)
        config = bootstrap_aws(ray_accepts(asked))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        ec2 = boto3.client("ec2", region_name=region)
        launched = {}
        for name, node in config["available_node_types"].items():
            provider.create_node(node["node_config"], {"ray-node-name": name}, 1)
            (found,) = provider.non_terminated_nodes({"ray-node-name": name})
            answer = ec2.describe_instances(InstanceIds=[found])["Reservations"]
            launched[name] = answer[0]["Instances"][0]
            (kind,) = ec2.describe_instance_types(InstanceTypes=[launched[name]["InstanceType"]])[
                "InstanceTypes"
            ]
            gpus = sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
            assert node["resources"]["GPU"] == gpus
            if name != "head":
                assert node["resources"]["CPU"] == kind["VCpuInfo"]["DefaultVCpus"]
        (group,) = launched["head"]["SecurityGroups"]
        assert launched["gpu"]["SecurityGroups"] == [group]
        (described,) = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert "InstanceLifecycle" not in launched["head"]
    assert launched["gpu"]["InstanceLifecycle"] == "spot"
    open_to_all = [r["FromPort"] for r in described["IpPermissions"] if r["IpRanges"]]
    assert open_to_all == [22]  # as the page says: no port of Ray


def compute_schemas() -> dict[str, Any]:
    """The types of Google's Compute API, as its Python client ships them."""
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return dict(json.loads((folder / "compute.v1.json").read_text("utf-8"))["schemas"])


def mistakes(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> list[str]:
    """What in `value` a discovery document's type does not know."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "object" and isinstance(value, dict):
        known = schema.get("properties", {})
        extra = schema.get("additionalProperties")
        return [
            line
            for key, inner in value.items()
            for line in (
                mistakes(inner, known.get(key, extra), schemas, f"{where}.{key}")
                if known.get(key, extra)
                else [f"{where}.{key} is unknown"]
            )
        ]
    if schema["type"] == "array" and isinstance(value, list):
        return [m for each in value for m in mistakes(each, schema["items"], schemas, where)]
    python: dict[str, Any] = {
        "string": (str, int),
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if not isinstance(value, python.get(schema["type"], ())):
        return [f"{where}: {value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    return []


def test_gcp_accepts_the_nodes() -> None:
    schemas = compute_schemas()
    for name, node in launcher("gcp")["available_node_types"].items():
        assert mistakes(node["node_config"], {"$ref": "Instance"}, schemas, name) == []
    wrong = {"scheduling": {"provisioningModel": "CHEAP"}, "machine": "e2-small"}
    assert len(mistakes(wrong, {"$ref": "Instance"}, schemas, "wrong")) == 2


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / f"kuberay-{name}.yaml").read_text("utf-8")))


def kubernetes_accepts(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def ray_part(resource: dict[str, Any]) -> None:
    """Check a RayCluster's or RayJob's own fields. Raises jsonschema.ValidationError."""
    schema = yaml.safe_load(Path(__file__).with_name("kuberay_schema.yaml").read_text("utf-8"))
    kind = {"RayCluster": "cluster", "RayJob": "job"}[resource["kind"]]
    jsonschema.validate(resource["spec"], schema | {"$ref": f"#/definitions/{kind}"})


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def as_pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **template}


@pytest.mark.parametrize("name", ["common", "raycluster", "rayjob"])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    for resource in manifests(name):
        if resource["apiVersion"] != "ray.io/v1":
            kubernetes_accepts(resource)
            continue
        ray_part(resource)
        cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
        for template in pods(cluster):
            kubernetes_accepts(as_pod(template))


def test_kubernetes_refuses_manifests_with_a_mistake() -> None:
    (resource,) = manifests("raycluster")
    head = pods(resource["spec"])[0]
    head["spec"]["serviceAcountName"] = "rts-search"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_accepts(as_pod(head))
    resource["spec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    with pytest.raises(jsonschema.ValidationError):
        ray_part(resource)


def test_the_manifests_fit_together() -> None:
    common = {each["kind"]: each for each in manifests("common")}
    (cluster,), (spec, job) = manifests("raycluster"), manifests("rayjob")
    app_label = common["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    inside = job["spec"]["rayClusterSpec"]
    assert re.search(rf"^ray=={inside['rayVersion']}$", constraints(), re.M)
    for each in (cluster["spec"], inside):
        assert each["authOptions"] == {"mode": "token", "secretName": "rts-search-token"}
        assert each["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for pod in pods(each):
            assert app_label.items() <= pod["metadata"]["labels"].items()
            assert pod["spec"]["serviceAccountName"] == common["ServiceAccount"]["metadata"]["name"]
            mounted = {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]}
            volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
            assert mounted == set(volumes)
            claim = volumes["sweeps"]["persistentVolumeClaim"]["claimName"]
            assert claim == common["PersistentVolumeClaim"]["metadata"]["name"]
    # the two differ in nothing but the spec's volume, which the job's head alone has
    head = inside["headGroupSpec"]["template"]["spec"]
    assert head["volumes"].pop() == {
        "name": "spec", "configMap": {"name": spec["metadata"]["name"]}
    }  # fmt: skip
    mount = head["containers"][0]["volumeMounts"].pop()
    assert inside == cluster["spec"]
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[2] == f"{mount['mountPath']}/{next(iter(spec['data']))}"
    assert "--resume" in command  # a retry is a new cluster


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text("utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_bash_and_shellcheck_accept_the_scripts(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    path = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which(
        "shellcheck"
    )
    if path is None:
        pytest.skip("no shellcheck")
    done = subprocess.run([path, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_slurm_options() -> None:
    text = (DEPLOY / "slurm.sh").read_text("utf-8")
    assert text.splitlines()[1].startswith("#SBATCH")  # those after the first command do not count
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M))
    assert len(options) == text.count("#SBATCH")
    known = {
        "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "signal",
        "requeue", "open-mode", "output",
    }  # fmt: skip
    assert set(options) == known
    assert options["ntasks-per-node"] == "1"  # one Ray node each
    name, seconds = re.fullmatch(r"B:(\w+)@(\d+)", options["signal"]).groups()  # type: ignore[union-attr]
    assert re.search(rf"^trap .* {name}$", text, re.M)
    assert int(seconds) >= 120
    assert text.index("umask 077") < text.index('>"$RAY_AUTH_TOKEN_PATH"') < text.index("umask 022")


def dockerfile() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(head, rest.strip()) for head, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile() -> None:
    steps = dockerfile()
    assert {head for head, _ in steps} == {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER"}
    version = re.fullmatch(r"python:(3\.\d+)-slim", steps[0][1])
    assert version is not None
    assert PYPROJECT["project"]["requires-python"] == f">={version[1]}"
    for argument in (rest.partition("=")[0] for head, rest in steps if head == "ARG"):
        assert any(f"${{{argument}" in rest for head, rest in steps if head == "RUN")
    assert [rest for head, rest in steps if head == "USER"] == ["1000"]
    assert "--uid 1000" in steps[2][1]


def test_the_dockerfile_copies_what_the_package_needs() -> None:
    copied = {
        source for head, rest in dockerfile() if head == "COPY" for source in shlex.split(rest)[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    project = PYPROJECT["project"]
    texts = {project["readme"], *project["license-files"]}
    needed = {*packages, *texts, "pyproject.toml", "constraints.txt"}
    assert copied == needed
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert all(any(fnmatch.fnmatch(source, pattern) for pattern in kept) for source in copied)


def test_one_version_of_uv() -> None:
    found = {v for p in TEXTS for v in re.findall(r"uv[=/]{1,2}(\d[\d.]*\d)", read(p))}
    assert len(found) == 1


def read(path: Path) -> str:
    return path.read_text("utf-8")


def commands() -> list[tuple[str, str]]:
    """Every `rts-search …` in the recipes and their pages, and where it stands; of the other pages
    those that are not run by `make check`."""
    found = []
    for path in TEXTS:
        text = re.sub(r"\\\n\s*", " ", read(path))
        for command in re.findall(r"(?<![\w/.:-])rts-search ([a-z][^`\n|;&)]*)", text):
            found.append((path.name, command.partition(" #")[0].strip()))
    root = DEPLOY.parent
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = re.sub(r"\\\n\s*", " ", read(path))
        for command in re.findall(r"^ {4}rts-search (.*)$", text, re.M):
            found.append((path.name, command.partition(" #")[0].strip()))
    return found


@pytest.mark.parametrize(("where", "command"), commands())
def test_the_commands_exist_with_their_options(where: str, command: str) -> None:
    name, *words = [word for word in shlex.split(command) if word != "$@"]
    group: Any = typer.main.get_command(app)
    assert name in group.commands, f"{where}: rts-search {command}"
    if words:  # else a command's name in a sentence
        # reads the command line as it would be read, and runs nothing
        group.commands[name].make_context(name, words)


def test_there_are_commands() -> None:
    names = {command.split()[0] for _, command in commands()}
    assert {"sweep", "submit", "status", "stop", "estimate", "logs"} <= names


def test_the_specs_are_valid() -> None:
    specs = [read(DEPLOY / "sweep.yaml"), *manifests("rayjob")[0]["data"].values()]
    for text in specs:
        spec = load_spec(text)
        # a cluster that grows may have no GPU when the sweep begins
        assert spec.resources.gpu != "auto"
        assert spec.resources.concurrent is not None
    assert load_spec(specs[0]) == load_spec(specs[1]).model_copy(update={"storage": "sweeps"})


def test_no_recipe_holds_or_shows_a_token() -> None:
    for path in TEXTS:
        for value in re.findall(r"RAY_AUTH_TOKEN=(\S+)", read(path)):
            raise AssertionError(f"{path.name}: {value}")
        assert not re.search(r"from-literal|[0-9a-f]{32}", read(path)), path.name


def test_every_recipe_has_its_page() -> None:
    index = read(DOCS / "README.md")
    for page in DOCS.glob("*.md"):
        text = read(page)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
        if page.name != "README.md":
            assert f"({page.name})" in index
            headings = re.findall(r"^## (.*)$", text, re.M)
            assert {"Check", "Cost"} <= set(headings), page.name
    named = " ".join(read(page) for page in DOCS.glob("*.md"))
    assert all(f"deploy/{path.name}" in named for path in DEPLOY.iterdir())
