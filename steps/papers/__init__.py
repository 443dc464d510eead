"""Text in, dataset out: reading, cleaning, annotating, deduplicating, splitting papers."""
