"""The configuration: the definition of every option, the YAML loader, and Bunny's connection keys."""
