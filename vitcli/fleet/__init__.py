"""Run a job in this process, on several devices, or on a Ray cluster."""
