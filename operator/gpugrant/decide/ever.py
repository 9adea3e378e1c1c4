"""Could these pods ever run on a grant's servers, if nothing else did? What cannot holds back nobody (R5).

Greedy: the choosiest and largest first, first fit. Where that fails the packer would fail too.
"""

from gpugrant.decide import reasons
from gpugrant.decide.fit import node_matches
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import GrantState, Server
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod, Shape


def never_fits(world: World, state: GrantState, pods: list[Pod], resource: str) -> Verdict | None:
    """Return what stands in the way for good, None where the pods would fit empty servers."""
    size = world.pools[state.pool].size
    seats = [p.shape.amount(resource) for p in pods]
    gpus = reasons.counted(sum(seats), "GPU")
    whole = f"gang of {len(pods)} pods ({gpus})" if len(pods) > 1 else f"a pod of {gpus}"
    name, kind = state.grant.name, state.line[1]
    if sum(seats) > state.seats:
        granted = reasons.counted(state.seats, "GPU")
        return _never(reasons.TOO_LARGE, f"{whole} can never fit grant {name} ({granted}, {kind})")
    if max(seats) > size:
        return _never(reasons.TOO_LARGE, f"a pod of {max(seats)} GPUs can never fit a server of {size}")
    servers = _servers(world, state)
    matching = {shape: _matching(shape, servers, resource) for shape in {p.shape for p in pods}}
    if not all(matching.values()):
        words = f"no server of grant {name} matches the pod's nodeSelector, affinity and tolerations"
        return _never(reasons.NO_SERVER_MATCHES, words)
    if _all_fit(pods, matching, size, resource):
        return None
    words = (
        f"{whole} can never fit the servers of grant {name}: GPUs, CPU and memory per server do not add up"
    )
    return _never(reasons.TOO_LARGE, words)


def _never(reason: str, words: str) -> Verdict:
    return Verdict(False, reason, words, lasting=True)


def _servers(world: World, state: GrantState) -> list[Server]:
    if state.shared:
        pool = world.pools[state.pool]
        found = (world.servers[n] for n in sorted(pool.servers))
        return [s for s in found if s.share == state.line[2]]
    return [world.servers[n] for n in state.servers if n in world.servers]


def _matching(shape: Shape, servers: list[Server], resource: str) -> list[Server]:
    return [s for s in servers if s.node and node_matches(shape, s.node, resource, passing=False)]


def _all_fit(pods: list[Pod], matching: dict[Shape, list[Server]], size: int, resource: str) -> bool:
    rooms: dict[str, tuple[int, int, int]] = {}
    begin: dict[Shape, int] = {}  # servers before this one are full for pods of the shape
    for pod in sorted(pods, key=lambda p: (len(matching[p.shape]), -p.shape.amount(resource))):
        shape, seats = pod.shape, pod.shape.amount(resource)
        candidates = matching[shape]
        for at in range(begin.get(shape, 0), len(candidates)):
            server = candidates[at]
            assert server.node
            free, cpu, memory = rooms.get(server.name) or (
                size,
                server.node.cpu_milli - server.overhead_cpu,
                server.node.memory - server.overhead_memory,
            )
            if free >= seats and cpu >= shape.cpu_milli and memory >= shape.memory:
                rooms[server.name] = (free - seats, cpu - shape.cpu_milli, memory - shape.memory)
                begin[shape] = at
                break
        else:
            return False
    return True
