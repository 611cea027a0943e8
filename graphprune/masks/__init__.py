"""From scores and an allocation to a mask."""
