"""Builders for tests of the months' life."""
