"""Updates of a good grant."""

from typing import Final

from .lines import ABSENT, Change

_FIXED = "must not change while the grant is allocated"
CHANGES: Final = (
    Change("grow", (("spec.gpus", 256),)),
    Change("shrink", (("spec.gpus", 64),)),
    Change(
        "shrink to nothing", (("spec.gpus", 0),), field="spec.gpus", words=("greater than or equal to 1",)
    ),
    Change("extend the term", (("spec.term.end", "2027-08-01"),)),
    Change("cut the term short", (("spec.term.end", "2026-11-15"),)),
    Change(
        "end the term before its start",
        (("spec.term.end", "2026-10-01"),),
        field="spec.term",
        words=("end must be after start",),
    ),
    Change("suspend", (("spec.suspend", "Drain"),)),
    Change("raise the priority", (("spec.priority", 10),)),
    Change("add a budget", (("spec.budget", {"gpuHours": 10}),)),
    Change("write out a default", (("spec.share", "Public"), ("spec.placement", "OneFabric"))),
    Change(
        "another GPU type",
        (("spec.gpuType", "NVIDIA-H200"),),
        field="spec.gpuType",
        words=("gpuType", _FIXED),
    ),
    Change("another programme", (("spec.programme", "lease-2025"),), field="spec.programme", words=(_FIXED,)),
    Change("no programme any more", (("spec.programme", ABSENT),), field="spec.programme", words=(_FIXED,)),
    Change("another share", (("spec.share", "OwnUse"),), field="spec.share", words=(_FIXED,)),
    Change(
        "a provider where there was none",
        (("spec.provider", "kakao"),),
        field="spec.provider",
        words=(_FIXED,),
    ),
    Change(
        "another provider",
        (("spec.provider", "kakao"),),
        before=(("spec.provider", "nhn-cloud"),),
        field="spec.provider",
        words=(_FIXED, "same award.id"),
    ),
    Change(
        "no provider any more",
        (("spec.provider", ABSENT),),
        before=(("spec.provider", "nhn-cloud"),),
        field="spec.provider",
        words=(_FIXED,),
    ),
    Change("another placement", (("spec.placement", "AnyFabric"),), field="spec.placement", words=(_FIXED,)),
    Change(
        "two fixed fields at once",
        (("spec.gpuType", "NVIDIA-H200"), ("spec.provider", "kakao")),
        field="spec.provider",
        words=("gpuType " + _FIXED, "provider " + _FIXED),
    ),
    Change("another GPU type before it is allocated", (("spec.gpuType", "NVIDIA-H200"),), allocated=False),
    Change("another programme before it is allocated", (("spec.programme", "lease-2025"),), allocated=False),
    Change("another provider before it is allocated", (("spec.provider", "kakao"),), allocated=False),
)
