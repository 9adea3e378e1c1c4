"""What the kinds of servers are, and the labels of their nodes; the stubs and pins that are kept beside others."""

import re
from pathlib import Path

import pytest
import yaml

from devcluster.fleet import a_server
from deviceplugin.api.__main__ import differing
from deviceplugin.devices import devices_of
from deviceplugin.profiles import MOST_DEVICES, NoSuchProfile, profile, profiles

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "product", "memory", "family"),
    [
        ("b200", "NVIDIA-B200", "183359", "blackwell"),
        ("h200", "NVIDIA-H200", "143771", "hopper"),
        ("h100", "NVIDIA-H100-80GB-HBM3", "81559", "hopper"),
    ],
)
def test_labels_are_those_of_gpu_feature_discovery_and_of_the_dev_cluster(name, product, memory, family):
    labels = profile(name).labels(8)
    wanted = {"product": product, "memory": memory, "family": family, "count": "8", "present": "true"}
    assert {key: labels[f"nvidia.com/gpu.{key}"] for key in wanted} == wanted
    kwok = a_server("n", provider="p", product=product)["metadata"]["labels"]
    assert {key: value for key, value in kwok.items() if key.startswith("nvidia.com/")}.items() <= labels.items()


def test_labels_of_npus_are_those_of_rebellions():
    labels = profile("atom").labels(4)
    assert labels["rebellions.ai/npu.product"] == "RBLN-CA25" and labels["rebellions.ai/npu.count"] == "4"
    assert not any(key.startswith("nvidia.com/") for key in labels)


def test_labels_are_such_as_the_api_server_takes():
    value = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")
    for each in profiles().values():
        for key, text in each.labels(MOST_DEVICES).items():
            assert len(key.split("/")[1]) <= 63 and len(text) <= 63 and value.match(text), (key, text)


@pytest.mark.parametrize("name", list(profiles()))
def test_ids_are_distinct_short_and_of_the_node(name):
    here, there = (devices_of(profile(name), node, MOST_DEVICES) for node in ("a", "b"))
    assert len({device.id for device in here}) == MOST_DEVICES and all(len(device.id) <= 63 for device in here)
    assert not {device.uuid for device in here} & {device.uuid for device in there}
    assert here == devices_of(profile(name), "a", MOST_DEVICES)


def test_the_first_devices_of_more_are_those_of_fewer():
    more, fewer = (devices_of(profile("b200"), "a", count) for count in (8, 4))
    assert [device.id for device in more[:4]] == [device.id for device in fewer]


def test_too_many_too_few_and_unknown_are_refused():
    for count in (0, MOST_DEVICES + 1):
        with pytest.raises(ValueError, match="count: a server has 1 to 16 devices"):
            devices_of(profile("b200"), "a", count)
    with pytest.raises(NoSuchProfile, match="there are: b200, h200, h100, atom"):
        profile("b300")


def test_the_stubs_are_what_the_proto_files_say():
    assert differing() == []


def test_the_images_pins_are_the_developments_pins():
    def pins(path: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))

    image, development = pins("images/deviceplugin/requirements.txt"), pins("requirements-dev.txt")
    assert {"grpcio", "protobuf", "aiohttp"} <= image.keys()
    assert image.items() <= development.items(), "make lock writes both"


def test_the_daemonset_runs_the_image_of_this_version_without_privileges():
    objects = list(yaml.safe_load_all((ROOT / "hack/deviceplugin/manifests/deviceplugin.yaml").read_text()))
    (daemonset,) = (each for each in objects if each["kind"] == "DaemonSet")
    pod = daemonset["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert container["image"] == f"localhost/gpugrant/deviceplugin:{version}"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in container["securityContext"] and not pod.get("hostNetwork")
