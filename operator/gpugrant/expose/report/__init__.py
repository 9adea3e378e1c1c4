"""A month as files: written, signed, checked without a cluster, and added to others.

``rows`` and ``tables`` say what the files look like, ``files`` writes them, ``signing`` signs them; ``reading``,
``checking`` and ``merging`` need nothing but folders; ``commands`` is ``gpugrant report``.
"""
