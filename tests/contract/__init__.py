"""Our side of the API's contract, against a server that breaks connections, and against a real one."""
