"""Photo → faces, people, crops. Detection packages are imported when a detector is created, never before."""
