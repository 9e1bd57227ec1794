"""Microbenchmarks: one family a file, found because it is there (docs/tasks/capture.md says what one needs)."""
