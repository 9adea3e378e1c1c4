"""The fleet of fleet.yaml, whole and in proportion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.fleet import OWN_USE_FABRIC, apportion, nodes, scaled, whole_fleet

WHOLE = whole_fleet()
KINDS = sum(pool.kinds for pool in WHOLE.pools)
PROMISED = {"nhn-b200": 6120, "naver-h200": 2296, "kakao-b200": 2040, "skt-b200": 1024, "naver-h100": 1024,
            "elice-b200": 512}


def test_the_whole_fleet_is_1962_servers_of_both_programmes() -> None:
    assert (WHOLE.servers, WHOLE.gpus) == (1962, 15696)
    assert {pool.name: pool.public * 8 for pool in WHOLE.pools} == PROMISED
    assert sum(pool.own_use for pool in WHOLE.pools) * 8 == 2680


def test_every_server_has_a_name_of_its_own_and_the_labels_that_pools_select_by() -> None:
    made = nodes(WHOLE)
    assert len({node["metadata"]["name"] for node in made}) == WHOLE.servers
    per_fabric: dict[str, int] = {}
    for node in made:
        labels = node["metadata"]["labels"]
        assert labels["gpugrant.io/provider"]
        assert labels["nvidia.com/gpu.product"]
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "8"
        per_fabric[labels["gpugrant.io/fabric"]] = per_fabric.get(labels["gpugrant.io/fabric"], 0) + 1
    assert per_fabric["nhn-b200-f1"] == 510
    assert per_fabric["nhn-b200-f2"] == 255
    assert per_fabric["nhn-b200-f3"] == OWN_USE_FABRIC


@given(st.integers(KINDS, 3 * WHOLE.servers))
def test_a_scaled_fleet_has_exactly_so_many_servers_and_one_of_each_kind(servers: int) -> None:
    fleet = scaled(servers)
    assert fleet.servers == servers
    assert len(nodes(fleet)) == servers
    for pool, whole in zip(fleet.pools, WHOLE.pools, strict=True):
        assert pool.public >= 1
        assert (pool.own_use >= 1) == (whole.own_use >= 1)
        assert all(size >= 1 for size in pool.fabrics)
        assert max(pool.fabrics[len(pool.public_fabrics):], default=0) <= OWN_USE_FABRIC


@given(st.integers(100, 3 * WHOLE.servers))
def test_a_scaled_fleet_keeps_the_proportions(servers: int) -> None:
    for pool, whole in zip(scaled(servers).pools, WHOLE.pools, strict=True):
        for part, of in ((pool.public, whole.public), (pool.own_use, whole.own_use)):
            # Within two servers: one of rounding, one given to the smallest kinds.
            assert abs(part - of * servers / WHOLE.servers) <= 2


@pytest.mark.parametrize("servers", [0, 1, KINDS - 1])
def test_fewer_servers_than_kinds_are_refused_with_the_number_that_would_do(servers: int) -> None:
    with pytest.raises(ValueError, match=f"Use SERVERS={KINDS} or more"):
        scaled(servers)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.integers(0, 5000))
def test_apportioning_gives_away_everything_and_never_less_than_one(weights: list[int], extra: int) -> None:
    parts = apportion(len(weights) + extra, weights)
    assert sum(parts) == len(weights) + extra
    assert min(parts) >= 1


def test_the_real_size_is_the_real_fleet() -> None:
    assert scaled(WHOLE.servers) == WHOLE
