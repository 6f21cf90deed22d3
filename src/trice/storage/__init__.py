"""Files: readers and atomic writers, the run store, locks and the cache."""
