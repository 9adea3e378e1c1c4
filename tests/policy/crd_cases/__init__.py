"""Good and bad objects of the four kinds: what to change in a good one, and what must be said of it.

``field`` and ``words`` must be in the refusal of pydantic and in the API server's.
"""

from .changes import CHANGES
from .grants import GRANTS
from .lines import Case, Change, Json, changed, good
from .pools import POOLS
from .reports import REPORTS
from .tenants import QUOTAS

CASES = (*POOLS, *QUOTAS, *GRANTS, *REPORTS)

__all__ = ["CASES", "CHANGES", "Case", "Change", "Json", "changed", "good"]
