"""What all tests share: they leave the cache of whoever runs them alone, and so do the processes they start."""

import os

os.environ["CAPRUN_CACHE"] = ""
