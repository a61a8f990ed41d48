"""The configuration: every option once, the YAML file, and Bunny's connection keys."""
