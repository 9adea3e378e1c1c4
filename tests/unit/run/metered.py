"""A cluster as a value whose every change is told to a Stock, and the facts that it tells."""

from collections.abc import Iterable

from cluster_model.cluster import Cluster
from gpugrant.config import load_settings
from gpugrant.model.node import Node
from gpugrant.run.stock import Stock


class Metered(Cluster):
    """A cluster whose every change is told to a Stock; the facts it tells are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[object] = []
        self.kept: list[object] = []  # told before the restart
        self.stock = Stock(self.world, self.told.append, lambda: self.now)
        self.stock.load((), self.now)

    def plan(self):
        plan = super().plan()
        self.stock.take()
        return plan

    def put_node(self, node: Node) -> None:
        super().put_node(node)
        self.stock.observe_node(self.nodes[node.name])

    def drop_node(self, name: str) -> None:
        super().drop_node(name)
        self.stock.node_gone(name, self.now)

    def news(self) -> list[object]:
        found, self.told[:] = list(self.told), []
        return found

    def restart(self) -> None:
        """Another process takes over: it knows the facts, and that they were kept up until now."""
        facts, watermark = list(self.stock_facts()), self.now
        self.stock = Stock(self.world, self.told.append, lambda: self.now)
        self.stock.load(facts, watermark)

    def stock_facts(self) -> Iterable[object]:
        last = {}
        for fact in self.history:
            last[subject(fact)] = fact
        return last.values()

    @property
    def history(self) -> list[object]:
        return self.kept + self.told


def subject(fact):
    fields = {"Health": ("server", "aspect"), "Claimed": ("server", "grant_uid")}
    names = fields.get(type(fact).__name__) or (fact.__struct_fields__[0],)
    return (type(fact).__name__, *(getattr(fact, name) for name in names))


SETTINGS = load_settings(
    "programmes:\n  purchase:\n    timeZone: Asia/Seoul\n    maintenanceNoticeSeconds: 3600\n"
)


def a_cluster() -> Metered:
    """Return one with a pool of three servers, two of them in the public share, and one tenant."""
    it = Metered(SETTINGS)
    it.add_namespace("acme", tenant="acme")
    it.add_quota("acme", affiliatedProviders=[])
    it.add_pool("pool", programme="purchase", publicShare={"gpus": 16})
    for number in range(3):
        it.add_node(f"n{number}")
    it.settle()
    return it


def of(kind, facts):
    return [fact for fact in facts if type(fact) is kind]
