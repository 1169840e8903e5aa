"""Captioning on several machines: Ray Data distributes, reads, retries and writes."""
