"""The implementation of the command-line commands, one module each."""
