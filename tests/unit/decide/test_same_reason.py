"""What counts as news for a pod that waits."""

import pytest

from gpugrant.decide.reasons import same_reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "grant a (16 GPUs, B200) has 3 free; 2 pods are ahead",
            "grant a (16 GPUs, B200) has 0 free; it is next",
        ),
        ("gang of 16 pods has 3 so far", "gang of 16 pods has 9 so far"),
        (
            "3rd in line; largest free fabric has 11 of 16 servers",
            "1st in line; largest free fabric has 2 of 16 servers",
        ),
        ("was taken back 1 time; waits", "was taken back 2 times; waits"),
        (
            "room for 1 of 9 pods; servers with 8 free have the taint k (1 server) or too little CPU left (1 server)",
            "room for 7 of 9 pods; servers with 8 free have the taint k (2 servers) or too little CPU left (9 servers)",
        ),
    ],
)
def test_figures_that_move_by_themselves_are_no_news(before: str, after: str) -> None:
    assert same_reason(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("grant train-1 (16 GPUs, B200) has 3 free", "grant train-2 (16 GPUs, B200) has 3 free"),
        ("grant a starts on 2027-01-01", "grant a starts on 2027-02-01"),
        ("grant a (16 GPUs, B200) has 0 free", "grant a (32 GPUs, B200) has 0 free"),
        ("servers with 8 free have the taint k (1 server)", "servers with 8 free have the taint m (1 server)"),
        ("grant a is suspended", "grant a ended on 2027-01-01"),
    ],
)
def test_another_grant_date_or_size_is_news(before: str, after: str) -> None:
    assert not same_reason(before, after)
