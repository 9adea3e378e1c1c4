"""Kubernetes quantities as exact integers.

The API server accepts ``8e0``, ``1k``, ``1e30`` and 2^63 for a GPU count as they stand, so no float and no
int64 will do. Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from decimal import ROUND_CEILING, Decimal, InvalidOperation, localcontext
from functools import lru_cache

_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
# Beyond this nothing physical is meant; the bound keeps 1e999999999 from filling memory with digits.
LARGEST = 10**40


@lru_cache(maxsize=4096)
def parse_quantity(text: str | int, scale: int = 1) -> int:
    """Return ``text`` × ``scale`` as an integer, rounded up; at most ``LARGEST``.

    ``scale`` 1000 gives milli-units (CPU). Raises ValueError for what is no quantity.
    """
    if isinstance(text, int):
        return text * scale
    number, suffix = text.strip(), ""
    for length in (2, 1):
        tail = number[-length:]
        if tail in _SUFFIX and tail and not tail[0].isdigit():
            number, suffix = number[:-length], tail
            break
    try:
        with localcontext() as context:
            context.prec = 80
            context.Emax = 10**9
            value = Decimal(number)
            if not value.is_finite():
                raise ValueError(f"{text!r} is not a quantity")
            if value.adjusted() > 60:
                return LARGEST if value > 0 else -LARGEST
            scaled = (value * _SUFFIX[suffix] * scale).to_integral_value(rounding=ROUND_CEILING)
            return max(-LARGEST, min(LARGEST, int(scaled)))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a quantity") from None
