"""`caprun serve`: captions over HTTP, and a page to try them on. Needs the extra `serve`."""
