"""Readers of papers, a module for each format."""
