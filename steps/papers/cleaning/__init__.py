"""The cleaning rules by subject, and the recipe that applies them in order."""
