"""The settings that were good last outlive the process, so that a bad version is not answered with the defaults."""

from pathlib import Path

from gpugrant.meter.facts import SettingsVersion
from gpugrant.meter.store import Store


def test_the_settings_recorded_last_are_there_for_the_next_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    store = Store(url)
    store.open()
    store.commit([SettingsVersion("a" * 64, 1, "first"), SettingsVersion("b" * 64, 2, "second")])
    store.close()
    again = Store(url)
    assert again.newest_settings() == "second"
    again.close()


def test_a_new_ledger_remembers_none(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/ledger.sqlite")
    assert store.newest_settings() == ""
    store.close()


def test_a_store_that_is_away_remembers_none(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/no/such/folder/ledger.sqlite")
    assert store.newest_settings() == ""
    store.close()
