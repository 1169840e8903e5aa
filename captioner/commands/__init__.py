"""The subcommands of `captioner`, a module each."""
