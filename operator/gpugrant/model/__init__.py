"""The facts the operator decides on, as frozen values. Knows no clock and no I/O."""
