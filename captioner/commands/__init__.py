"""The subcommands of `captioner`, one module each, and the options they share."""
