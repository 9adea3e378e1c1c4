"""gpugrant: GPU-as-a-service on Kubernetes, as dated grants that are enforced and accounted."""

__version__ = "0.2.0"
