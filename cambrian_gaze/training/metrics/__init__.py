"""What a run reports: its log, meters, samples and summary."""
