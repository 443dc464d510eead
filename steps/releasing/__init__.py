"""The forms in which a model is handed on: made by kept tools, measured before they leave."""
