"""Whatever the host's clock says, the operator's time is the API server's."""

import logging
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpugrant.observe.server_clock import ServerClock

START = 1_793_458_800


class Host:
    """A host whose clock is wrong by ``wrong`` seconds, and a server whose clock is right."""

    def __init__(self) -> None:
        self.true = float(START)
        self.wrong = 0.0
        self.clock = ServerClock(lambda: self.true + self.wrong, lambda: self.true - START + 5)

    def ask(self, there: float = 0.0, back: float = 0.0) -> None:
        sent = self.true - START + 5
        self.true += there
        date = formatdate(int(self.true), usegmt=True)
        self.true += back
        self.clock.heard(date, sent, self.true - START + 5)


def test_before_the_first_answer_the_host_is_believed() -> None:
    host = Host()
    host.wrong = 40.0
    assert host.clock.now() == START + 40


latencies = st.floats(0, 5)


@given(st.lists(st.tuples(st.floats(-1e7, 1e7), latencies, latencies, st.floats(0, 1000)), min_size=1))
def test_it_is_within_a_second_and_an_answers_time_of_the_server(
    steps: list[tuple[float, float, float, float]],
) -> None:
    host = Host()
    for wrong, there, back, later in steps:
        host.ask(there, back)
        host.wrong = wrong
        host.true += later
        assert abs(host.clock.now() - host.true) <= 1 + there + back + 1e-3


@given(latencies, latencies, st.floats(0, 0.999), st.floats(0, 1e5))
def test_a_clock_that_is_right_is_used_as_it_is(there: float, back: float, part: float, later: float) -> None:
    host = Host()
    host.true += part
    host.ask(there, back)
    host.true += later
    assert host.clock.now() == pytest.approx(host.true, abs=1e-3)
    assert host.clock.offset() == pytest.approx(0, abs=1e-3)


def test_a_wrong_clock_is_said_once_and_when_it_is_right_again(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    caplog.set_level(logging.INFO)
    for wrong in (0.0, 3600.0, 3601.0, 0.5, -7200.0):
        host.wrong = wrong
        host.ask()
    assert [record.getMessage().split(" the API")[0] for record in caplog.records] == [
        "the clock of this host is 3599 s ahead of",
        "the clock of this host agrees with",
        "the clock of this host is 7200 s behind",
    ]


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_an_answer_without_a_date_changes_nothing(date: str | None) -> None:
    host = Host()
    host.ask()
    host.wrong = 1e6
    host.clock.heard(date, 5, 5)
    assert abs(host.clock.now() - host.true) <= 1
