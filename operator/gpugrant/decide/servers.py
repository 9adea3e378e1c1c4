"""What each server's labels and taint should be now (R1, R2, R4).

A server leaves a grant, a shared group or own use only when nothing is held or reserved there and nothing that was
released or fenced could still bind there. Until then whoever comes next waits, and says so.
"""

from gpugrant import names
from gpugrant.decide.actions import WriteServer
from gpugrant.decide.shares import fenced_could_bind
from gpugrant.decide.state import OWN_USE, Server
from gpugrant.decide.world import World
from gpugrant.model.node import Taint

# A shared server stays open this long after it was emptied: the next small pod finds it, and nothing is written.
LINGER_SECONDS = 30


def rewrite_server(world: World, server: Server, now: int) -> WriteServer | None:
    """Return what has to change on a node, None where nothing has or a change is under way."""
    node = server.node
    _keep_share_in_use(world, server)
    if node is None or server.name in world.writing or len(server.claims) > 1:
        return None  # a node that two pools claim is left as it is until people say whose it is
    wanted = _wanted_labels(world, server, now)
    changes = tuple((k, v) for k, v in wanted.items() if node.labels.get(k) != v)
    resource = world.pools[server.pool].resource if server.pool else ""
    ours = [t.key for t in node.taints if _is_ours(world, server, t)]
    add = (
        (resource,)
        if resource and not any(t.key == resource and t.effect == names.TAINT_EFFECT for t in node.taints)
        else ()
    )
    drop = tuple(sorted({key for key in ours if key != resource})) if not server.pods or server.pool else ()
    if not (changes or add or drop):
        return None
    if not world.may_try(server.name):
        return None
    return WriteServer(server.name, changes, add, drop)


def _keep_share_in_use(world: World, server: Server) -> None:
    """Take back a change of share that was not written before something came to run here."""
    written = server.label(names.SHARE_LABEL)
    if any(pod.grant_uid for pod in server.pods.values()):
        return  # a grant's pods run in the share it was decided for, whatever a hand wrote on the node
    if written and server.share and written != server.share and server.pods:
        server.share = written
        world.stand(server)
        world.dirty_pools.update(server.claims)


def _is_ours(world: World, server: Server, taint: Taint) -> bool:
    """Say whether a taint was put on by us: our value, our effect, on a node with our pool label."""
    return (
        taint.value == names.TAINT_VALUE
        and taint.effect == names.TAINT_EFFECT
        and bool(server.label(names.POOL_LABEL))
        and "/" in taint.key
        and any(taint.key == name for name, _ in (server.node.capacity if server.node else ()))
    )


def _wanted_labels(world: World, server: Server, now: int) -> dict[str, str | None]:
    if not server.pool:
        # Out of every pool: what runs there runs on; the labels go when it is empty.
        keep = bool(server.pods)
        return {} if keep else dict.fromkeys(names.NODE_LABELS, None)
    wanted: dict[str, str | None] = dict.fromkeys(names.NODE_LABELS, None)
    wanted[names.POOL_LABEL] = server.pool
    wanted[names.SHARE_LABEL] = server.share or None
    owner = wanted_owner(world, server, now)
    has_grant, has_shared = server.label(names.GRANT_UID_LABEL), server.label(names.SHARED_FOR_LABEL)
    has_fence = server.label(names.OWN_USE_LABEL)
    if has_grant and has_grant != owner and _still_used(world, server, has_grant):
        wanted[names.GRANT_UID_LABEL] = has_grant
    elif has_shared and not _shared_may_close(world, server, owner, now):
        wanted[names.SHARED_FOR_LABEL] = has_shared
    elif owner:
        if not server.pods or has_grant == owner or _only_own_pods(server, owner):
            if has_fence and fenced_could_bind(world, server):
                wanted[names.OWN_USE_LABEL] = has_fence
                world.fence_waits.add(server.name)
            else:
                wanted[names.GRANT_UID_LABEL] = owner
        # else: occupied by somebody else. The fence goes at once, so that nothing new comes.
    elif _is_open_own_use(world, server):
        spec = world.pools[server.pool].pool.spec
        assert spec
        wanted[names.OWN_USE_LABEL] = spec.provider
    if has_shared and wanted[names.SHARED_FOR_LABEL] is None and not wanted[names.GRANT_UID_LABEL]:
        wanted[names.SHARED_FOR_LABEL] = None
    return wanted


def wanted_owner(world: World, server: Server, now: int) -> str:
    """Return the uid of the grant whose server this is now, by the calendar."""
    for booking in server.bookings:
        if booking.start <= now < booking.end and booking.grant in world.grants:
            return booking.grant
    return ""


def _only_own_pods(server: Server, owner: str) -> bool:
    return all(pod.grant_uid == owner for pod in server.pods.values())


def _still_used(world: World, server: Server, uid: str) -> bool:
    """Say whether a leaving grant still has something here, or something that could come here."""
    if server.pods:
        return True
    usage = world.usage.get(uid)
    if usage and any(world.places.get(u, "") in ("", server.name) for u in usage.unbound):
        world.leaving.setdefault(uid, set()).add(server.name)
        return True
    return False


def _shared_may_close(world: World, server: Server, owner: str, now: int) -> bool:
    if server.pods:
        server.emptied_at = 0
        return False
    if owner:
        return True
    if not server.emptied_at:
        server.emptied_at = now
    if now - server.emptied_at >= LINGER_SECONDS:
        return True
    world.wake(server.emptied_at + LINGER_SECONDS)
    world.recheck.append((server.emptied_at + LINGER_SECONDS, server.name))
    return False


def _is_open_own_use(world: World, server: Server) -> bool:
    spec = world.pools[server.pool].pool.spec
    return bool(spec and server.share == OWN_USE and spec.own_use == "Open")
