"""The operator as a process: lease, loop, probes, command line questions."""
