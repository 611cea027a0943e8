"""Studies: models x methods x sparsities x seeds, as a TOML file says, and the table that comes of them."""
