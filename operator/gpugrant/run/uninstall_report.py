"""What an uninstall did and what it found, in words."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gpugrant import names


@dataclass
class Findings:
    """Objects by path or namespace/name; sets, since the same object is met in several passes."""

    stripped: dict[str, set[str]] = field(default_factory=lambda: {"pod": set(), "node": set()})
    running: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    remade: set[str] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)
    unplaceable: set[str] = field(default_factory=set)

    def look_again(self) -> None:
        """Forget what the next look finds anew."""
        self.waiting.clear()
        self.unplaceable.clear()

    def lines(self) -> Iterator[str]:
        """Yield what a person is to know, the remains last."""
        pods, nodes = self.stripped["pod"], self.stripped["node"]
        own = sum(len(paths) for kind, paths in self.stripped.items() if kind not in ("pod", "node"))
        yield f"nodes: {len(nodes)} freed of labels and taint"
        yield f"pods: {len(pods)} freed of finalizer, labels and annotations"
        if self.running:
            yield f"pods: {len(self.running)} running on, not metered any more"
            yield "  a kubelet that restarts ends such pods (NodeAffinity): they select labels that its server has lost"
        if own:
            yield f"own objects: {own} freed of finalizers"
        if self.released:
            yield f"pods: {len(self.released)} released from the gate {names.GATE}"
        if self.remade:
            yield f"pods: {len(self.remade)} that waited for a server's label evicted; their controllers make new ones"
        if self.unplaceable:
            yield f"pods: {len(self.unplaceable)} wait for labels of servers that are gone, and will not start:"
            yield from (f"  {key}" for key in sorted(self.unplaceable))
        if self.waiting:
            yield (
                f"pods: {len(self.waiting)} still wait behind the gate {names.GATE}; "
                "delete them, or run this again with --waiting release:"
            )
            yield from (f"  {key}  {words}".rstrip() for key, words in sorted(self.waiting.items()))
