"""`caprun serve`: captions over HTTP, and a web page to try it. Needs the extra `serve`."""
