"""Second-order surgery: which columns of a linear layer to remove, and how the others make up for it."""
