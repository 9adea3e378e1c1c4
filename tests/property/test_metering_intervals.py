"""Cutting and overlaps under any input: nothing is lost, nothing negative, order is of no account."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gpugrant.meter.intervals import Hold, NodeFacts, cut_overlaps, gone_interval, held_interval
from gpugrant.meter.months import Calendar
from meter_kit import NOVEMBER, a_pod

unhurried = settings(deadline=None)  # a slow machine is no fault of the arithmetic

ZONES = ("Asia/Seoul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC")
YEAR = 365 * 86_400
moments = st.integers(NOVEMBER - 20 * YEAR, NOVEMBER + 20 * YEAR)
calendars = st.builds(Calendar, st.sampled_from(ZONES), st.sampled_from([0, 0, 0, 600, 86_400]))


@unhurried
@given(moments, calendars)
def test_months_follow_each_other_without_gap_or_overlap(at, calendar):
    month = calendar.month_of(at)
    assert month.start <= at < month.end
    following = calendar.month_of(month.end)
    assert (following.start, calendar.before(following)) == (month.end, month)
    assert month.name < following.name


stamps = st.one_of(st.just(0), st.integers(1, 5000))


@unhurried
@given(
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
    st.sampled_from(["", "server-1"]),
    st.sampled_from(["", "Evicted", "OutOfnvidia.com/gpu", "DeadlineExceeded"]),
    st.booleans(),
    st.fixed_dictionaries(
        dict.fromkeys(("scheduled_at", "finished_at", "disrupted_at", "terminal_at", "deleting"), stamps)
    ),
    st.integers(1, 6000),
    st.integers(0, 6000),
)
def test_whatever_a_pod_says_of_itself_no_interval_is_negative(phase, node, reason, admitted, times, at, seen):
    pod = a_pod(phase=phase, node=node, reason=reason, admitted=admitted, created=1, **times)
    for interval in (held_interval(pod, NodeFacts(), at), gone_interval(pod, NodeFacts(), at, seen)):
        if interval is not None and interval.end is not None:
            assert interval.start <= interval.end
            if pod.ended and pod.node and pod.terminal_at:
                assert interval.end <= max(interval.start, pod.terminal_at)


@st.composite
def holds(draw):
    size = draw(st.sampled_from([1, 2, 8]))
    drawn = draw(
        st.lists(
            st.tuples(st.integers(0, 40), st.none() | st.integers(0, 20), st.integers(1, size)), max_size=8
        )
    )
    return size, [
        Hold(f"pod-{number}", start, None if length is None else start + length, seats, size)
        for number, (start, length, seats) in enumerate(drawn)
    ]


@unhurried
@given(holds(), st.randoms())
def test_after_cutting_no_second_has_more_seats_than_the_server_and_no_hold_has_grown(given_holds, random):
    size, all_holds = given_holds
    ends = cut_overlaps(all_holds)
    shuffled = all_holds[:]
    random.shuffle(shuffled)
    assert cut_overlaps(shuffled) == ends
    for hold in all_holds:
        end = ends[hold.uid]
        assert end is None or end >= hold.start
        assert hold.end is None or (end is not None and end <= hold.end)
    for second in range(70):
        taken = sum(
            hold.seats
            for hold in all_holds
            if hold.start <= second and (ends[hold.uid] is None or second < ends[hold.uid])
        )
        assert taken <= size
