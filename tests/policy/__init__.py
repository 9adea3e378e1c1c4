"""The admission policies on a real API server: what gets in, what does not, and what it is told."""
