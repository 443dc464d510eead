"""What is measured of one model: likelihood, masked scores, cloze tests, generation."""
