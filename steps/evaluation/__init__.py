"""How good a model is at genomics text: likelihood, cloze tests, generation, metrics."""
