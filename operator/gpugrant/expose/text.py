"""Prometheus' text format, written for pages of tens of thousands of series.

Leaner than the general encoder, since the event loop waits for it; and integers are written as integers.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The types that this format does not have: what is added to the name, and what they are shown as.
_SHOWN_AS = {
    "counter": ("_total", "counter"),
    "info": ("_info", "gauge"),
    "stateset": ("", "gauge"),
    "unknown": ("", "untyped"),
}
_WITH_CREATED = ("counter", "histogram", "summary")
_IN_LABELS = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


def write_page(families: Iterable[Metric]) -> bytes:
    """Return the page of these families."""
    return "".join(line for family in families for line in _lines(family)).encode()


def _lines(family: Metric) -> Iterator[str]:
    suffix, shown_as = _SHOWN_AS.get(family.type, ("", family.type))
    yield f"# HELP {family.name}{suffix} {family.documentation.translate(_IN_HELP)}\n"
    yield f"# TYPE {family.name}{suffix} {shown_as}\n"
    for sample in family.samples:
        if sample.name.endswith("_created") and shown_as in _WITH_CREATED:
            continue  # when a series began; a second series for each, which nobody asks for
        labels = ",".join([f'{key}="{value.translate(_IN_LABELS)}"' for key, value in sample.labels.items()])
        if labels:
            yield f"{sample.name}{{{labels}}} {_number(sample.value)}\n"
        else:
            yield f"{sample.name} {_number(sample.value)}\n"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
