"""Benchmarks: how fast, how flat, how large. `make bench` runs them; docs/benchmarks.md tells how figures are made."""
