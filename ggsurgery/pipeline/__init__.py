"""One recipe from a source file to a release bundle: `ggsurgery run`."""
