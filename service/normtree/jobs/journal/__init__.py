"""What is done of a job, written so that a killed one resumes."""
