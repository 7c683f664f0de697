"""The command line: one function per command, no logic; heavy imports inside the command."""
