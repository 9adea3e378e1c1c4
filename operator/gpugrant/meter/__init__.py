"""Who held which GPUs, when: facts, intervals, months (pure) and the store that keeps them.

``facts``, ``intervals``, ``months`` and ``cutting`` know no clock and no I/O; ``tables``, ``store`` and
``migrations`` are the database; ``meter`` joins both to the running operator.
"""
