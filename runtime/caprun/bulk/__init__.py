"""Captioning on several machines: Ray Data distributes, reads, retries and writes; this only says what.

`command.py` is `caprun bulk`, `job.py` the job, `source.py` what it reads, `output.py` what it writes and how it goes
on, `worker.py` what one of its actors does. Ray and PyArrow are imported by a job and by nothing else.
"""
