"""Processes that compute the nodes of a table: warm ones on this machine, jobs of Slurm on others."""
