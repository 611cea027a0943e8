"""What a run folder knows, as one page, as JSON and as tables."""
