"""The mathematics: pure functions of arrays, without parameters and without state."""
