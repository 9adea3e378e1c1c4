"""What should be: pure decisions over facts. Knows no clock and no I/O (CI checks the imports)."""
