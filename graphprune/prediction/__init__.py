"""What an architecture costs in quality, predicted from a few that were measured, and which is best under a budget."""
