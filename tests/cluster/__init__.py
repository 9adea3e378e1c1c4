"""The operator on a real control plane, with kwok as the servers' kubelets."""
