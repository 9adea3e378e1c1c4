"""A world that decides nothing: it notes what it is told."""

from collections.abc import Callable
from typing import Any

from gpugrant.decide.actions import Action


class Recorder:
    """Takes every fact, and keeps what became of actions."""

    def __init__(self) -> None:
        self.facts: list[tuple[str, Any]] = []
        self.confirmed: list[Action] = []
        self.forgotten: list[tuple[Action, str]] = []

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
