"""Who runs a job: this process, several devices, or a Ray cluster."""
