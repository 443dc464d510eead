"""Who does the work of preprocessing: the processes of this machine, or a cluster of Ray."""
