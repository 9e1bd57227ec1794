"""What has to be done: models, layouts and schedules become tasks. FLOPs and bytes; no seconds."""
