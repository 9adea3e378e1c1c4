"""What a scraper reads: DCGM's names and labels, and whose each device is."""

import asyncio
import subprocess

from prometheus_client.parser import text_string_to_metric_families

from deviceplugin.service import Service
from kubelet_kit.running import Running, options


def read(page: str, name: str) -> dict[str, tuple[float, dict[str, str]]]:
    """Return a metric's values and labels by the device's UUID."""
    return {
        sample.labels.get("UUID") or sample.labels["uuid"]: (sample.value, sample.labels)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


async def test_a_device_is_busy_in_the_name_of_the_pod_that_holds_it_and_others_are_idle(kubelet, b200):
    ids = list(b200.devices)
    kubelet.hold("hangang", "train-0", "worker", "nvidia.com/gpu", ids[0], ids[5])
    kubelet.hold("hangang", "other", "worker", "rebellions.ai/ATOM", ids[1])
    utilization = read(await b200.page(), "DCGM_FI_DEV_GPU_UTIL")
    assert {id_ for id_, (value, _) in utilization.items() if value > 0} == {ids[0], ids[5]}
    labels = utilization[ids[5]][1]
    assert (labels["namespace"], labels["pod"], labels["container"]) == ("hangang", "train-0", "worker")
    assert (labels["gpu"], labels["device"], labels["modelName"], labels["Hostname"]) == (
        "5", "nvidia5", "NVIDIA B200", "worker-1"
    )  # fmt: skip
    assert (utilization[ids[1]][1]["namespace"], utilization[ids[1]][1]["pod"]) == ("", "")


async def test_memory_used_and_free_are_what_the_card_has(kubelet, b200):
    kubelet.hold("n", "p", "c", "nvidia.com/gpu", next(iter(b200.devices)))
    page = await b200.page()
    used, free = read(page, "DCGM_FI_DEV_FB_USED"), read(page, "DCGM_FI_DEV_FB_FREE")
    assert {used[id_][0] + free[id_][0] for id_ in b200.devices} == {183359}


async def test_the_last_xid_shows_ignored_ones_too_and_heals_away(b200):
    await b200.do("xid", device=2, xid=31)
    await b200.do("xid", device=3, xid=79)
    errors = [value for value, _ in read(await b200.page(), "DCGM_FI_DEV_XID_ERRORS").values()]
    assert errors == [0, 0, 31, 79, 0, 0, 0, 0]
    await b200.do("heal", device="all")
    assert not any(value for value, _ in read(await b200.page(), "DCGM_FI_DEV_XID_ERRORS").values())


async def test_a_load_is_shown_until_it_is_taken_back(kubelet, b200):
    first = next(iter(b200.devices))
    kubelet.hold("n", "p", "c", "nvidia.com/gpu", first)
    await b200.do("load", device=0, percent=3, memory_mib=1000)
    page = await b200.page()
    assert (read(page, "DCGM_FI_DEV_GPU_UTIL")[first][0], read(page, "DCGM_FI_DEV_FB_USED")[first][0]) == (3, 1000)
    await b200.do("load", device=0)
    assert read(await b200.page(), "DCGM_FI_DEV_GPU_UTIL")[first][0] == 96


async def test_an_unhealthy_device_does_nothing_and_a_removed_one_is_not_there(kubelet, b200):
    ids = list(b200.devices)
    kubelet.hold("n", "p", "c", "nvidia.com/gpu", *ids)
    await b200.do("xid", device=0, xid=79)
    await b200.do("remove", device=1)
    utilization = read(await b200.page(), "DCGM_FI_DEV_GPU_UTIL")
    assert utilization[ids[0]][0] == 0
    assert ids[1] not in utilization and len(utilization) == 7


async def test_npus_speak_as_rebellions_exporter_does(kubelet, http, tmp_path):
    service = Service(options(kubelet, tmp_path / "log", "atom", count=2))
    atom = Running(service, tmp_path / "log", http)
    async with service.running():
        kubelet.hold("n", "p", "c", "rebellions.ai/ATOM", "0000:18:00.0")
        await atom.do("fail", device=0)
        page = await atom.page()
        assert sorted(value for value, _ in read(page, "RBLN_DEVICE_STATUS:HEALTH").values()) == [0, 1]
        (held,) = (labels for value, labels in read(page, "RBLN_DEVICE_STATUS:UTILIZATION").values() if value)
        assert (held["name"], held["pod"], held["card"]) == ("rbln1", "p", "RBLN-CA25")
        assert {value for value, _ in read(page, "RBLN_DEVICE_STATUS:DRAM_TOTAL").values()} == {15.71875}
        assert "knows no Xids" in (await atom.do("xid", device=0, xid=79))["error"]


async def test_without_the_kubelets_word_nothing_seems_held_and_the_page_says_so(kubelet, b200):
    kubelet.hold("n", "p", "c", "nvidia.com/gpu", next(iter(b200.devices)))
    await kubelet.stop()
    page = await b200.page()
    assert "fake_gpu_pod_resources_up 0.0" in page
    assert not any(value for value, _ in read(page, "DCGM_FI_DEV_GPU_UTIL").values())
    await b200.page()
    assert [line["up"] for line in b200.lines("pod-resources")] == [False], "told once"
    await kubelet.start()
    assert "fake_gpu_pod_resources_up 1.0" in await b200.page()


async def test_a_kubelet_that_is_back_is_heard_at_the_next_scrape(kubelet, b200):
    # Ten times: a wait that channels share is over by chance in one of four.
    for _ in range(10):
        await kubelet.stop()
        assert "fake_gpu_pod_resources_up 0.0" in await b200.page()
        await kubelet.start()
        assert "fake_gpu_pod_resources_up 1.0" in await b200.page()


async def test_prometheus_can_read_the_page(b200):
    checked = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, err = await checked.communicate((await b200.page()).encode())
    # 3: it has an opinion on style; the names are DCGM's.
    problems = [line for line in err.decode().splitlines() if "DCGM" not in line]
    assert checked.returncode in (0, 3) and not problems, err.decode()
