"""Numbers and names that several stages must agree on."""

FLOOR = 1e-12  # chosen: normalized regrets below it are equal, as they are rounding of the function values
ALPHA = 0.05  # level of every test; intervals are of 95 %
POP = "pop"  # the row of the policy that ships with POP, which the others are compared with
PSD = "psd"  # likewise of Predicted Step Descent
