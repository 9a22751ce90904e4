"""Long tests: crashes, hours of work, fuzzing."""
