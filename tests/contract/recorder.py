"""A world that decides nothing: it notes what it is told."""

from collections.abc import Callable
from typing import Any

from gpugrant.decide.actions import Action
from gpugrant.model.pod import Pod


class Recorder:
    """Takes every fact, and keeps what became of actions."""

    def __init__(self) -> None:
        self.facts: list[tuple[str, Any]] = []
        self.pods: dict[str, Pod] = {}
        self.confirmed: list[Action] = []
        self.forgotten: list[tuple[Action, str]] = []

    def put_pod(self, pod: Pod) -> None:
        self.pods[pod.uid] = pod
        self.facts.append(("put_pod", (pod,)))

    def drop_pod(self, uid: str) -> None:
        self.pods.pop(uid, None)
        self.facts.append(("drop_pod", (uid,)))

    def confirm(self, action: Action) -> None:
        self.confirmed.append(action)

    def forget(self, action: Action, error: str = "") -> None:
        self.forgotten.append((action, error))

    def account_anew(self) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith(("put_", "drop_", "set_")):
            raise AttributeError(name)
        return lambda *facts: self.facts.append((name, facts))
