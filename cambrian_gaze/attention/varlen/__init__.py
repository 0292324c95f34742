"""The `flash_varlen` backend: attention in varlen segments, merged by log-sum-exp."""
