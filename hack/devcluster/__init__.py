"""A Kubernetes control plane without containers, a made-up fleet of GPU servers, and what runs on them.

For development, tests and the demo: real etcd, API server, controllers and scheduler, built from Go
modules; kwok plays the kubelets. Nothing of it is needed where the operator runs in production.
"""
