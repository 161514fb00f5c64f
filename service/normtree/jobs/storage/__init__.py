"""Where a job's files are: folders of this machine, and stores behind URLs."""
