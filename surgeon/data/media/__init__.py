"""One file for each medium of samples: pictures, texts, sounds, series, arrays."""
