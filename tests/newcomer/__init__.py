"""What a newcomer adds, each done once with a toy, without editing the package; CONTRIBUTING tells how."""
