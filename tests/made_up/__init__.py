"""Studies made up for tests: tidy tables whose truth is known, with their facts; and configs that run in a second."""
