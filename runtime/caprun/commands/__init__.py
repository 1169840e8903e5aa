"""The subcommands of `caprun`, one module each, and the options they share."""
