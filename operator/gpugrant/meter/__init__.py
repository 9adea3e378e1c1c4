"""Who held which GPUs, when: facts, intervals, months (pure) and the store that keeps them.

``facts`` are what was seen; ``intervals``, ``booking``, ``spans``, ``seating`` and ``timeline`` work out of them,
purely, who owned every second. ``tables``, ``migrations`` and ``store`` are the database; ``settling``, ``days``,
``monthly`` and ``closing`` keep days and months; ``meter`` joins all of it to the running operator.
"""
