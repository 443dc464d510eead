"""Everything that the store knows; the only importer of mlflow."""
