"""Long attacks on the program: crashes, soak, fuzzing."""
