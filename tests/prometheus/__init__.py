"""What a real Prometheus makes of the operator."""
