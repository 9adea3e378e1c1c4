"""The day's digest: what it depends on, what it does not, and that anybody can work it out."""

import hashlib
import json
import random

from msgspec.structs import astuple, replace

from gpugrant.meter.digests import day_digest, day_digests, day_names, summed
from gpugrant.meter.month import Line

USED = Line(
    "purchase-2025", "nhn", "nhn-b200", "fab-1", "NVIDIA-B200", "Public", "grant", "hangang", "한강LM", "A-17",
    "pretrain", "Used", "", "2026-11-01", 86_400 * 128,
)  # fmt: skip
FREE = replace(USED, owner="free", tenant="", tenant_display_name="", award="", grant="", condition="Idle")
OWN = replace(FREE, share="OwnUse", owner="own-use", fabric="fab-9", tenant="research", condition="Used")
DAY = [USED, FREE, OWN]


def test_the_order_of_lines_and_how_they_are_split_are_of_no_account():
    parts = [replace(USED, gpu_seconds=1), replace(USED, gpu_seconds=USED.gpu_seconds - 1), FREE, OWN]
    random.Random(7).shuffle(parts)
    nothing = replace(FREE, grant="another", gpu_seconds=0)
    assert day_digest(parts) == day_digest(DAY) == day_digest([*DAY, nothing])


def test_every_figure_and_every_name_but_the_display_name_counts():
    whole = day_digest(DAY)
    assert day_digest([replace(USED, tenant_display_name="renamed"), FREE, OWN]) == whole
    assert day_digest([replace(USED, gpu_seconds=USED.gpu_seconds + 1), FREE, OWN]) != whole
    for field in Line.__struct_fields__[:-1]:
        if field != "tenant_display_name":
            assert day_digest([replace(USED, **{field: "other"}), FREE, OWN]) != whole, field


def test_own_use_in_detail_has_the_digest_of_own_use_in_total():
    detail = [replace(OWN, tenant=name, gpu_seconds=5, reason="x") for name in ("a", "b")]
    total = replace(OWN, tenant="", fabric="", gpu_seconds=10)
    assert day_digest([USED, *detail]) == day_digest([USED, total])


def test_a_field_cannot_run_into_the_next():
    assert day_digest([replace(USED, award="A", grant="B")]) != day_digest(
        [replace(USED, award="AB", grant="")]
    )


def test_it_can_be_worked_out_with_nothing_but_json_and_sha256():
    line = replace(USED, grant='quote " back \\ slash \n feed 한')
    fields = [
        value
        for name, value in zip(Line.__struct_fields__, astuple(line), strict=True)
        if "display" not in name
    ]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
    assert day_digest([line]) == hashlib.sha256(text.encode()).hexdigest()


def test_days_have_a_digest_each():
    later = replace(USED, day="2026-11-02")
    assert day_digests([later, *DAY]) == {"2026-11-01": day_digest(DAY), "2026-11-02": day_digest([later])}


def test_a_month_has_its_calendar_days_also_where_clocks_change():
    november = day_names(1_793_458_800, 1_796_050_800, "Asia/Seoul")
    assert (november[0], november[-1], len(november)) == ("2026-11-01", "2026-11-30", 30)
    # October 2026 in Berlin: 31 days, one of them of 25 hours.
    october = day_names(1_790_805_600, 1_790_805_600 + 31 * 86_400 + 3_600, "Europe/Berlin")
    assert (october[0], october[-1], len(october)) == ("2026-10-01", "2026-10-31", 31)
    assert day_names(5, 5, "UTC") == ()


def test_equal_lines_are_one_and_sums_of_nothing_are_left_out():
    assert summed([USED, USED, FREE, replace(FREE, gpu_seconds=-FREE.gpu_seconds)]) == (
        replace(USED, gpu_seconds=2 * USED.gpu_seconds),
    )
