"""Which case, cut and preprocessing suit the data, by measurement."""
