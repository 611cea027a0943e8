"""What commands do: each step reads a run folder, computes, and keeps what it made there."""
